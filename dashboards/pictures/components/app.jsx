// Draws a panel with Grafana's own components in each element that carries a panel's JSON and data.
import React from 'react';
import { createRoot } from 'react-dom/client';
import { createTheme, dateTime, FieldType, getDisplayProcessor, ThemeContext, toDataFrame } from '@grafana/data';
import { initPluginTranslations } from '@grafana/i18n';
import { BigValue, GlobalStyles, PanelChrome, Table, TimeSeries } from '@grafana/ui';
import 'uplot/dist/uPlot.min.css';

const theme = createTheme({ colors: { mode: 'dark' } });

/** A panel's field options as its plugin would apply them: the defaults, then the overrides by name. */
function configured(panel, title) {
  const config = structuredClone(panel.fieldConfig.defaults);
  config.custom = { ...config.custom };
  for (const { matcher, properties } of panel.fieldConfig.overrides) {
    if (matcher.options === title) {
      for (const { id, value } of properties) {
        if (id.startsWith('custom.')) config.custom[id.slice(7)] = value;
        else config[id] = value;
      }
    }
  }
  return config;
}

function frame(panel, fields) {
  const made = toDataFrame({ fields });
  made.fields.forEach((field) => {
    field.display = getDisplayProcessor({ field, theme, timeZone: 'utc' });
  });
  return made;
}

function Number({ panel, value, width, height }) {
  const made = frame(panel, [{ name: panel.title, type: FieldType.number, values: [value], config: configured(panel, panel.title) }]);
  const shown = value === null ? { ...made.fields[0].display(null), text: panel.fieldConfig.defaults.noValue } : made.fields[0].display(value);
  return <BigValue width={width} height={height} theme={theme} value={shown} colorMode="background" graphMode="none" justifyMode="auto" textMode="auto" />;
}

function Trend({ panel, series, range, width, height }) {
  const frames = series.map(({ name, times, values }, index) => {
    const made = frame(panel, [
      { name: 'Time', type: FieldType.time, values: times, config: {} },
      { name, type: FieldType.number, values, config: { ...configured(panel, name), displayName: name } },
    ]);
    made.fields[1].state = { seriesIndex: index, displayName: name };
    return made;
  });
  const [from, to] = range.map((at) => dateTime(at));
  return <TimeSeries frames={frames} structureRev={1} timeRange={{ from, to, raw: { from, to } }} timeZone="utc"
    width={width} height={height} theme={theme} legend={panel.options.legend} options={panel.options} />;
}

function Listing({ panel, columns, width, height }) {
  const made = frame(panel, columns.map(({ title, kind, values }) => ({
    name: title, type: FieldType[kind], values, config: configured(panel, title),
  })));
  return <Table data={made} width={width} height={height} initialSortBy={panel.options.sortBy} cellHeight="sm" />;
}

const KINDS = { stat: Number, timeseries: Trend, table: Listing };

await initPluginTranslations('grafana', []);
for (const element of document.querySelectorAll('[data-panel]')) {
  const drawn = JSON.parse(element.dataset.panel);
  const Kind = KINDS[drawn.panel.type];
  createRoot(element).render(
    <ThemeContext.Provider value={theme}>
      <PanelChrome title={drawn.panel.title} width={element.clientWidth} height={element.clientHeight} padding={drawn.panel.type === 'stat' ? 'none' : 'md'}>
        {(width, height) => <Kind {...drawn} width={width} height={height} />}
      </PanelChrome>
    </ThemeContext.Provider>
  );
}
const styles = document.body.appendChild(document.createElement('div'));
createRoot(styles).render(<ThemeContext.Provider value={theme}><GlobalStyles /></ThemeContext.Provider>);
