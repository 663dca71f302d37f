"""What Prometheus and Grafana need to watch SmartBatch, as docker-compose.yml's profile `observability` runs them.

prometheus/      what to scrape; alerts, and the cases that test them
grafana/         the data source, and the dashboard
dashboard/       what the dashboard shows: the source of grafana/dashboards/smartbatch.json
metrics_page.py  the tables of docs/metrics.md

`python -m smartbatch.deploy.observability` writes what is generated of these (`make generated`).
"""
