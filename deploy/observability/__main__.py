"""Write the dashboard and the tables of docs/metrics.md."""

from pathlib import Path

from smartbatch.deploy.observability import dashboard, metrics_page

ROOT = Path(__file__).parents[2]

if __name__ == "__main__":
    (ROOT / dashboard.FILE).write_text(dashboard.text())
    page = ROOT / metrics_page.FILE
    page.write_text(metrics_page.updated(page.read_text()))
