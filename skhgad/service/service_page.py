"""The page that describes the service, made from its OpenAPI description; it loads nothing."""

from ..report.template import html_template

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>
body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}
code{background:#eee;padding:.1rem .3rem}dt{font-weight:600;margin-top:.5rem}
</style></head><body><h1>{{ title }} {{ version }}</h1><p>{{ description }}</p>
<p>The machine-readable description is <a href="openapi.json">openapi.json</a>.</p>
{% for path, method, about in operations %}
<h2><code>{{ method }} {{ path }}</code></h2>
<p>{{ about.summary }}. {{ about.description or "" }}</p>
<dl>
{% if about.requestBody %}
<dt>body</dt><dd>multipart/form-data with the field <code>files</code>, once for each image</dd>
{% endif %}
{% for parameter in about.parameters or [] %}
<dt>{{ parameter.name }}</dt><dd>in the {{ parameter.in }}: {{ parameter.description or "" }}</dd>
{% endfor %}
</dl>
{% endfor %}
</body></html>
"""


def service_page(description):
    """Return the page of an OpenAPI description, a str."""
    operations = [
        (path, method.upper(), {"parameters": [], "requestBody": None, "description": "", **about})
        for path, methods in description["paths"].items()
        for method, about in methods.items()
    ]
    for _, _, about in operations:
        about["parameters"] = [{"description": "", **one} for one in about["parameters"]]
    return html_template(_PAGE).render(**description["info"], operations=operations)
