"""Every command that talks to Redis, on a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.acceptance.commands import call_here, running, worker_environment
from tests.clusters import OwnCluster
from tests.waiting import block_until

STREAMS = [f"s{number}" for number in range(6)]
SECONDS = 30


def test_commands_work_as_on_one_server(cluster: OwnCluster, database_url: str, tmp_path: Path) -> None:
    env = worker_environment(cluster.url, database_url, "app:")

    def call(*arguments: str, code: int = 0) -> CompletedProcess[str]:
        ended = call_here(*arguments, env=env)
        assert (ended.returncode, "Traceback" in ended.stderr) == (code, False), ended.stdout + ended.stderr
        return ended

    def verify() -> str:
        return call_here("verify", env=env).stdout

    lines = tmp_path / "lines"
    events = [{"stream_id": s, "type": "user_message", "data": {"content": s}} for s in STREAMS]
    lines.write_text("\n".join(map(json.dumps, events)))
    with running("run", env=env) as worker:
        assert len(call("emit", "--from-file", str(lines)).stdout.split()) == len(STREAMS)
        last = call("emit", "s0", "model_selected", '{"modelId": "m"}').stdout.strip()
        block_until(lambda: "6 rows compared, all right" in verify(), "all rows", SECONDS)
        block_until(lambda: last in call("show", "s0").stdout, "the last event", SECONDS)
        block_until(lambda: call_here("status", env=env).returncode == 0, "a replica's report", SECONDS)
        [status] = json.loads(call("status", "--json").stdout)
        assert (status["rows"], status["feed"]["pending"], len(status["replicas"])) == (6, 0, 1)
        found = {f["finding"] for f in json.loads(call("check", "--json").stdout)["findings"]}
        assert not any(kind.startswith("redis-cluster") for kind in found)
        assert [m["content"] for m in json.loads(call("messages", "s1").stdout)] == ["s1"]
        assert json.loads(call("thinking", "s1").stdout) is None
        assert "6" in call("rebuild", "--dry-run").stdout
        call("rebuild")
        call("verify", "--fix")
        call("dead-letters", "list")
        assert worker.stop() == 0, worker.log
        assert "Traceback" not in worker.log


def test_a_cluster_that_is_away_is_one_sentence(database_url: str) -> None:
    env = worker_environment("redis+cluster://127.0.0.1:1,127.0.0.1:2", database_url, "app:")
    for command in (("emit", "a", "user_message", "{}"), ("status",), ("messages", "a")):
        ended = call_here(*command, env=env)
        assert ended.returncode != 0
        assert "Connect call failed" in ended.stderr
        assert len(ended.stderr.splitlines()) == 1, ended.stderr


def test_a_url_of_one_node_is_told_to_be_wrong(cluster: OwnCluster, database_url: str) -> None:
    environments = [worker_environment(node.url, database_url, "") for node in cluster.nodes]
    told = [call_here("emit", "a", "user_message", "{}", env=env).stderr for env in environments]
    wrong = [said for said in told if "Redis is a cluster: write redis+cluster://... in REDIS_URL." in said]
    assert len(wrong) == len(cluster.nodes)  # No node has both the log and the plain names of the feed.


@pytest.mark.parametrize("prefix", ["{app}:", "app{"])
def test_a_prefix_that_would_put_all_logs_on_one_node_is_refused(prefix: str, database_url: str) -> None:
    ended = call_here("status", env=worker_environment("redis+cluster://h:1", database_url, prefix))
    assert ended.returncode == 2
    assert ended.stderr.startswith("WORKER_KEY_PREFIX is wrong: the key prefix")
    assert ended.stderr.endswith("one node; give one without.\n")
