// Bundles app.jsx for a browser. Grafana's packages are taken in their CommonJS form: the other one does not bundle.
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
