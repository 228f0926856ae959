"""Simulated conversations for demos and load: what producers of a real research chat would append.

The same generator state gives the same conversation, so that a run can be repeated.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from projections.simulated_research import (
    MODELS,
    ORTHOLOGS,
    REASONS,
    SUB_AGENT_TASKS,
    TOOLS,
    TOPICS,
    Search,
    Topic,
)

Said = tuple[str, dict[str, Any]]

_ANSWER_BYTES = 600
_TOOL_CALLS = 4


@dataclass(frozen=True, slots=True)
class SimulatedEvent:
    """What a producer passes to `emit`. All events of a turn have one operation id."""

    type: str
    data: dict[str, Any]
    operation_id: str


def simulate_conversation(
    rng: random.Random, wdk_ids: Sequence[int], *, turns: int | None = None
) -> Iterator[SimulatedEvent]:
    """The events of one conversation, turn by turn: so many turns, or without end.

    A turn has about 45 events, most of them token deltas. ``wdk_ids`` are the WDK strategies that the
    conversation may claim; share a few among many conversations, and they take them from each other. With
    none, nothing is ever claimed.
    """
    conversation = _Conversation(rng, rng.choice(TOPICS), wdk_ids)
    for turn in itertools.count() if turns is None else range(turns):
        operation_id = f"op-{rng.getrandbits(48):012x}"
        for event_type, data in conversation.turn(first=turn == 0):
            yield SimulatedEvent(event_type, data, operation_id)


class _Conversation:
    """One person and one assistant on one topic."""

    def __init__(self, rng: random.Random, topic: Topic, wdk_ids: Sequence[int]) -> None:
        self._rng = rng
        self._topic = topic
        self._wdk_ids = wdk_ids
        self._model = rng.choice(MODELS)

    def turn(self, *, first: bool) -> Iterator[Said]:
        """A question, the work on it and the answer."""
        question = self._topic.questions[0] if first else self._rng.choice(self._topic.questions)
        message_id = self._new_id("msg")
        snapshot = self._snapshot()
        yield "message_start", {"messageId": message_id}
        yield "user_message", {"content": question, "messageId": self._new_id("msg")}
        yield from self._choices_of_the_person(first=first)
        if self._now_and_then(0.5):
            yield "reasoning", {"reasoning": self._rng.choice(REASONS)}
        for number in range(_TOOL_CALLS):
            yield from self._tool_call(with_sub_agent=number == 1 and self._now_and_then(0.25))
        yield "graph_snapshot", {"graphSnapshot": snapshot}
        yield from self._news_of_the_strategy(snapshot, first=first)
        yield from self._answer(message_id)
        yield "message_end", self._tokens()

    def _choices_of_the_person(self, *, first: bool) -> Iterator[Said]:
        if first or self._now_and_then(0.1):
            self._model = self._rng.choice(MODELS)
            yield "model_selected", {"modelId": self._model}
        if not first and self._now_and_then(0.05):
            yield "graph_cleared", {}

    def _news_of_the_strategy(self, snapshot: Mapping[str, Any], *, first: bool) -> Iterator[Said]:
        if first or self._now_and_then(0.15):
            yield "strategy_meta", {"name": snapshot["name"], "recordType": "transcript"}
        if self._wdk_ids and self._now_and_then(0.3):
            link: dict[str, Any] = {"wdkStrategyId": self._rng.choice(self._wdk_ids)}
            if self._now_and_then(0.4):
                link["isSaved"] = self._now_and_then(0.6)
            yield "strategy_link", link
        if self._now_and_then(0.1):
            plan = {
                "recordType": "transcript",
                "root": self._planned(),
                "metadata": {"name": snapshot["name"]},
            }
            yield "graph_plan", {"plan": plan, "name": snapshot["name"], "recordType": "transcript"}

    def _answer(self, message_id: str) -> Iterator[Said]:
        answer = self._answer_text()
        for delta in _in_pieces(answer, self._rng.randint(26, 34)):
            yield "assistant_delta", {"messageId": message_id, "delta": delta}
        if self._now_and_then(0.4):
            dois = self._rng.sample(self._topic.citations, k=self._rng.randint(1, 2))
            yield "citations", {"citations": [{"doi": doi, "source": "literature"} for doi in dois]}
        yield "assistant_message", {"content": answer, "messageId": message_id}

    def _answer_text(self) -> str:
        sentences = [f"I built a strategy for {self._topic.organism} and looked at its result."]
        for finding in self._rng.sample(self._topic.findings, k=len(self._topic.findings)):
            if sum(map(len, sentences)) < _ANSWER_BYTES - 100:
                sentences.append(finding)
        sentences.append(
            f"The strategy now returns {self._rng.randint(3, 240)} genes; shall I narrow it down any further?"
        )
        return " ".join(sentences)

    def _tool_call(self, *, with_sub_agent: bool) -> Iterator[Said]:
        call_id = self._new_id("call")
        search = self._rng.choice(self._topic.searches)
        arguments = {"searchName": search.name, "parameters": dict(search.parameters)}
        yield "tool_call_start", {"id": call_id, "name": self._rng.choice(TOOLS), "arguments": arguments}
        if with_sub_agent:
            yield from self._sub_agent()
        result = {"ok": True, "resultCount": self._rng.randint(0, 900), "search": search.name}
        yield "tool_call_end", {"id": call_id, "result": result}

    def _sub_agent(self) -> Iterator[Said]:
        task = {"task": self._rng.choice(SUB_AGENT_TASKS)}
        yield "subkani_task_start", task | {"modelId": self._rng.choice(MODELS)}
        for _ in range(self._rng.randint(1, 3)):
            call = task | {"id": self._new_id("call")}
            search = self._rng.choice(self._topic.searches)
            yield (
                "subkani_tool_call_start",
                call | {"name": "get_estimate", "arguments": {"search": search.name}},
            )
            yield "subkani_tool_call_end", call | {"result": {"resultCount": self._rng.randint(0, 900)}}
        tokens = {
            "promptTokens": self._rng.randint(800, 4000),
            "completionTokens": self._rng.randint(50, 600),
        }
        yield "subkani_task_end", task | tokens | {"llmCallCount": 2, "status": "done"}

    def _snapshot(self) -> dict[str, Any]:
        """Two or three searches, combined one after the other, at times with orthologs: 3 to 6 steps."""
        leaves = [
            self._step("search", search)
            for search in self._rng.sample(self._topic.searches, k=self._rng.randint(2, 3))
        ]
        steps = [leaves[0]]
        for leaf in leaves[1:]:
            operator = self._rng.choice(("INTERSECT", "UNION", "MINUS"))
            inputs = {"primaryInputStepId": steps[-1]["id"], "secondaryInputStepId": leaf["id"]}
            combined = {"id": self._new_id("step"), "kind": "combine", "operator": operator, **inputs}
            steps += [leaf, combined | {"displayName": operator.capitalize(), "searchName": ""}]
        if self._now_and_then(0.3):
            steps.append(self._step("transform", ORTHOLOGS) | {"primaryInputStepId": steps[-1]["id"]})
        return {
            "graphId": self._new_id("graph"),
            "name": f"{self._topic.title}: {leaves[-1]['displayName']}",
            "recordType": "transcript",
            "rootStepId": steps[-1]["id"],
            "steps": steps,
        }

    def _step(self, kind: str, search: Search) -> dict[str, Any]:
        return {
            "id": self._new_id("step"),
            "kind": kind,
            "searchName": search.name,
            "displayName": search.title,
            "parameters": dict(search.parameters),
        }

    def _planned(self) -> dict[str, Any]:
        one, other = self._rng.sample(self._topic.searches, k=2)
        inputs = {
            name: {"searchName": search.name, "parameters": dict(search.parameters)}
            for name, search in (("primaryInput", one), ("secondaryInput", other))
        }
        return {"searchName": "__combine__", "operator": "INTERSECT", "parameters": {}, **inputs}

    def _tokens(self) -> dict[str, Any]:
        prompt, completion = self._rng.randint(6_000, 24_000), self._rng.randint(250, 900)
        return {
            "promptTokens": prompt,
            "completionTokens": completion,
            "totalTokens": prompt + completion,
            "cachedTokens": prompt // 2,
            "toolCallCount": _TOOL_CALLS,
            "registeredToolCount": len(TOOLS),
            "llmCallCount": _TOOL_CALLS + 1,
            "estimatedCostUsd": round(prompt * 2e-6 + completion * 8e-6, 6),
            "modelId": self._model,
        }

    def _now_and_then(self, probability: float) -> bool:
        return self._rng.random() < probability

    def _new_id(self, kind: str) -> str:
        return f"{kind}-{self._rng.getrandbits(32):08x}"


def _in_pieces(text: str, count: int) -> Iterator[str]:
    """The text as a model would stream it: whole words, in about so many pieces."""
    words = text.split(" ")
    bounds = [len(words) * number // count for number in range(count + 1)]
    for start, end in itertools.pairwise(bounds):
        yield " ".join(words[start:end]) + (" " if end < len(words) else "")
