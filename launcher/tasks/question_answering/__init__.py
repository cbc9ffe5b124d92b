"""The answer to a question, where it stands in a text."""

from launcher.section import Section
from launcher.task import Traits

METRICS = ("loss", "exact_match", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1")

TRAITS = Traits(
    auto_class="AutoModelForQuestionAnswering",
    pipeline_tag="question-answering",
    formats=("question_answers", "squad"),
    metrics=METRICS,
    default_metrics=METRICS,  # the last four where the data has questions with and without an answer
    data_keys=("max_length", "doc_stride", "max_query_length", "max_answer_length", "null_score_diff_threshold"),
    has_new_head=True,
    target_names=("start_positions", "end_positions", "is_context", "null_position"),
    output_names=("start_logits", "end_logits"),
    peft_task_type="QUESTION_ANS",
)


class Config(Section):
    """The loss has no options."""
