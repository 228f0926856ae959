"""What the payloads of generated events look like, by type: realistic ones, and nasty ones."""

from typing import Any

from tests.payloads.choices import ABSENT, TEXT_FIELD, Choices, Table, any_text
from tests.payloads.graphs import GRAPH_PLAN, GRAPH_SNAPSHOT

# Few ids, so that claims collide.
WDK_STRATEGY_IDS: tuple[Any, ...] = (
    *(ABSENT, 1, 2, 3, 4, 5) * 6,
    *(0, -1, 2**63 - 1, -(2**63)),
    *(2**63, -(2**63) - 1, 2**64, 10**30),
    *(True, False, "1", 1.0, 2.5, None, [1], {}, float("nan")),
)
STRATEGY_LINK: Table = {
    "wdkStrategyId": WDK_STRATEGY_IDS,
    "isSaved": (ABSENT, False, True) * 4 + (None, 0, 1, "true", []),
}
STRATEGY_META: Table = {"name": TEXT_FIELD, "recordType": TEXT_FIELD}
MODEL_SELECTED: Table = {"modelId": TEXT_FIELD}
NOTHING: Table = {"reason": (ABSENT, "user")}

MESSAGE: Table = {
    "content": TEXT_FIELD,
    "messageId": (ABSENT, "m1", "m2", "m3", None, 5),
    "citations": (ABSENT, ABSENT, [], [{"source": "PlasmoDB"}], None),
    "planningArtifacts": (ABSENT, ABSENT, [], [{"id": "p"}], "x"),
    "toolCalls": (ABSENT, ABSENT, [], [{"id": "c1"}], None),
    "reasoning": (ABSENT, ABSENT, "", "because", None),
}

CALL_IDS: tuple[Any, ...] = ("c1", "c2", "c3", "c1", "c2", "c3", "", ABSENT, None, 5, ["x"])
ARGUMENTS: tuple[Any, ...] = (
    *({"query": "x"}, '{"query": "y"}', "{}", "", "[]", "null", "nonsense", "[" * 5_000),
    *(ABSENT, None, 5, ["x"]),
)
TOOL_CALL_START: Table = {"id": CALL_IDS, "name": ("search", "build", ABSENT, None), "arguments": ARGUMENTS}
TOOL_CALL_END: Table = {"id": CALL_IDS, "result": ("found", "", None, ABSENT, {"genes": [1, 2]})}


def citation(choices: Choices) -> list[dict[str, str]]:
    return [{"source": choices.text()}]


CITATIONS: Table = {"citations": (citation, citation, [1, None], [], ABSENT, None, "x", {"x": 1})}
PLANNING_ARTIFACT: Table = {"planningArtifact": ({"id": "p"}, {"id": "q"}, any_text, {}, "", 0, None, ABSENT)}
REASONING: Table = {"reasoning": TEXT_FIELD}

TOKEN_COUNTS: Table = {
    "totalTokens": (10, 20, 10, 20, 0, -1, True, "10", 1.5, None, ABSENT),
    "promptTokens": (ABSENT, 7, 0, None),
    "llmCallCount": (ABSENT, 2, None),
    "estimatedCostUsd": (ABSENT, 0.25, 0),
    "modelId": (ABSENT, "gpt", "", None),
}

TASK: Table = {"task": ("find", "build", "find", "build", "日本", "", ABSENT, None, 5, ["x"])}
TASK_START: Table = TASK | MODEL_SELECTED
TASK_END: Table = TASK | TOKEN_COUNTS | {"status": ("failed", "done", "", None, ABSENT)}

PAYLOADS: dict[str, Table] = {
    "user_message": MESSAGE,
    "assistant_message": MESSAGE,
    "strategy_meta": STRATEGY_META,
    "strategy_link": STRATEGY_LINK,
    "graph_snapshot": GRAPH_SNAPSHOT,
    "graph_plan": GRAPH_PLAN,
    "model_selected": MODEL_SELECTED,
    "graph_cleared": NOTHING,
    "message_start": NOTHING,
    "message_end": TOKEN_COUNTS,
    "tool_call_start": TOOL_CALL_START,
    "tool_call_end": TOOL_CALL_END,
    "citations": CITATIONS,
    "planning_artifact": PLANNING_ARTIFACT,
    "reasoning": REASONING,
    "subkani_task_start": TASK_START,
    "subkani_task_end": TASK_END,
    "subkani_tool_call_start": TASK | TOOL_CALL_START,
    "subkani_tool_call_end": TASK | TOOL_CALL_END,
    "assistant_delta": MESSAGE,
    "error": MESSAGE,
}
