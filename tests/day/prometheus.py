"""Debian's Prometheus, which scrapes two instances every second, and its queries."""

import json
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Prometheus:
    def __init__(self, folder: Path, port: int, targets: list[str]):
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ROOT / "deploy/prometheus/alerts.yml")],
            "scrape_configs": [{"job_name": "usher", "static_configs": [{"targets": targets}]}],
        }
        # JSON is YAML.
        (folder / "prometheus.yml").write_text(json.dumps(config))
        self.url = f"http://127.0.0.1:{port}/api/v1/"
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
            + [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
        )

    def get(self, path: str, **arguments: object) -> dict:
        with OPENER.open(self.url + path + "?" + urllib.parse.urlencode(arguments), timeout=30) as answer:
            return json.load(answer)["data"]

    def value(self, query: str) -> float:
        found = self.get("query", query=query)["result"]
        return float(found[0]["value"][1]) if found else float("nan")

    def over(self, query: str, start: float, end: float) -> list[dict]:
        return self.get("query_range", query=query, start=start, end=end, step=2)["result"]


def dashboard_queries() -> list[tuple[str, str]]:
    """Title and query of each panel, with Grafana's variables filled in."""
    dashboard = json.loads((ROOT / "deploy/grafana/usher.json").read_text())
    found = [(note["name"], note["expr"]) for note in dashboard["annotations"]["list"]]
    for panel in dashboard["panels"]:
        found += [(panel["title"], target["expr"]) for target in panel.get("targets", [])]
    return [(title, query.replace("$__rate_interval", "15s").replace("$instance", ".*")) for title, query in found]
