"""Texts with a label, and texts with the text that they become."""

from launcher.data.formats.cells import Cells, Row, label


def labelled_text(cells: Cells) -> Row:
    """{text, label} with text_pair beside text where the data has one."""
    example: Row = {"text": cells.text("text")}
    if cells.get("text_pair") is not None or "text_pair" in cells.columns:
        example["text_pair"] = cells.text("text_pair")
    return {**example, "label": label(cells)} if cells.answered("label") else example


def source_target(cells: Cells) -> Row:
    example: Row = {"source": cells.text("source")}
    return {**example, "target": cells.text("target")} if cells.answered("target") else example
