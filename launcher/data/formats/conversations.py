"""What a causal language model is trained on: conversations, prompts with completions, plain text."""

import json
from typing import Any

from launcher.data.formats.cells import Cells, Row, checked_text
from launcher.data.readers import too_much
from launcher.errors import DataError

ROLES = ("system", "developer", "user", "assistant", "tool")
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}


def text(cells: Cells) -> Row:
    return {"text": cells.text("text")}


def prompt_completion(cells: Cells) -> Row:
    prompt, completion = cells["prompt"], cells["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):  # both written as turns: it is a conversation
        return {**_conversation(cells, prompt + completion), "completion_turns": len(completion)}
    return {name: cells.text(name) for name in ("prompt", "completion")}


def messages(cells: Cells) -> Row:
    return _conversation(cells, cells["messages"])


def _conversation(cells: Cells, turns: Any) -> Row:
    """The turns, and the `tools` beside them that the template writes into the prompt."""
    if not isinstance(turns, list) or not turns:
        raise cells.error("messages must be a list of at least one {role, content}")
    example: Row = {"messages": [_turn(turn, f"{cells.where} messages[{i}]") for i, turn in enumerate(turns)]}
    if tools := _tools(cells.row.get("tools"), cells.where):
        example["tools"] = tools
    return example


def _tools(tools: Any, where: str) -> list[Any]:
    """Function descriptions, as a list or as the JSON text of one."""
    try:
        tools = json.loads(tools) if isinstance(tools, str) and tools.strip() else tools or []
    except (ValueError, RecursionError) as error:
        said = error.msg if isinstance(error, json.JSONDecodeError) else too_much(error)
        raise DataError(f"column 'tools' is not JSON: {said}", where=where) from None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError("column 'tools' must be a list of function descriptions", where=where)
    return tools


def _turn(message: Any, where: str) -> Row:
    if isinstance(message, dict) and "from" in message and "value" in message:  # ShareGPT's spelling
        message = {"role": message["from"], "content": message["value"]}
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise DataError("a message needs a role and a content", where=where)
    turn = {key: value for key, value in message.items() if value is not None}
    turn["role"] = SHAREGPT_ROLES.get(turn["role"], turn["role"])
    if turn["role"] not in ROLES:  # a template would write any word, and nothing would be trained on it
        known = ", ".join((*ROLES, *SHAREGPT_ROLES))
        raise DataError(f"unknown role {turn['role']!r}", where=where, fix=f"use one of {known}")
    if turn.get("tool_calls") and "content" not in turn:
        return turn
    turn["content"] = checked_text(turn.get("content"), "the content", where)
    return turn
