// Bundles app.jsx for a browser, with the CommonJS form of Grafana's packages, because the other form does not bundle.
import { build } from 'esbuild';

await build({
  entryPoints: ['app.jsx'],
  outfile: 'app.js',
  bundle: true,
  format: 'esm',
  minify: true,
  logLevel: 'error',
  loader: { '.svg': 'dataurl', '.ttf': 'empty' },
  define: { 'process.env.NODE_ENV': '"production"', global: 'window' },
  plugins: [
    {
      name: 'commonjs of grafana',
      setup(bundle) {
        bundle.onResolve({ filter: /^@grafana\// }, ({ path, resolveDir, importer, pluginData }) =>
          pluginData === 'resolving'
            ? undefined
            : bundle.resolve(path, { kind: 'require-call', resolveDir, importer, pluginData: 'resolving' })
        );
      },
    },
  ],
});
