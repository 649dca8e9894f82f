"""Pure: the landing page at ``/``, for people who open the address in a browser."""

import html
from string import Template
from typing import Final

_PAGE: Final = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Phonic exporter</title>
<style>
:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 10vh auto; padding: 0 1.5rem }
h1 { font-size: 1.6rem; margin-bottom: 0 }
p { margin-top: .3rem; opacity: .75 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .5rem 1.5rem; margin-top: 2rem }
dd { margin: 0 }
</style>
</head>
<body>
<h1>Phonic exporter</h1>
<p>Live voice conversations as Prometheus metrics. Version $version.</p>
<dl>
$links
</dl>
</body>
</html>
""")
_LINK: Final = Template('<dt><a href="$path">$path</a></dt><dd>$meaning</dd>')


def landing_page(*, telemetry_path: str, version: str, prefix: str = "") -> str:
    """Return a complete HTML document that loads no other resource. Arguments are escaped.

    Args:
        telemetry_path: path of the metrics page.
        version: version of the exporter.
        prefix: prefix of the links, as the browser must request them, maybe through a proxy.
    """
    links = {
        telemetry_path: "metrics for Prometheus",
        "/-/healthy": "whether this process is healthy",
        "/-/ready": "whether the metrics are complete",
        "/api/v1/conversations": "the conversations being watched, as JSON",
    }
    return _PAGE.substitute(
        version=html.escape(version),
        links="\n".join(
            _LINK.substitute(path=html.escape(prefix + path), meaning=meaning) for path, meaning in links.items()
        ),
    )
