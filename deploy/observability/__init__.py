"""Configuration of Prometheus and Grafana, as the profile `observability` of docker-compose.yml runs them.

prometheus/      scrape configuration, alerts and recording rules with their tests
grafana/         data source and dashboard
dashboard/       source of grafana/dashboards/smartbatch.json
metrics_page.py  tables of docs/metrics.md

`python -m smartbatch.deploy.observability` writes the generated files (`make generated`).
"""
