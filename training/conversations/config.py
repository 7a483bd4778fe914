"""The settings of the conversations stage.

Importing this costs Pydantic only, since `raymill plan` loads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field

from cluster.contracts.config import (
    InputFiles,
    ReferenceFiles,
    Resources,
    Sections,
    StageConfig,
    StrictModel,
    not_in_fingerprint,
)
from training.config import Fraction
from training.conversations.file_names import FileFormat, file_format
from training.conversations.template_fields import parsed_template

FormatName = Literal["messages", "sharegpt", "prompt_completion", "alpaca", "dolly", "question_answer"]
PiiKind = Literal["email_address", "ip_address", "phone_number", "credit_card", "iban_code", "secret"]
Mend = Literal["merge_turns", "drop_first_answers", "drop_last_prompts"]

SetName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


def _with_text_keys(value: Any) -> Any:
    """Labels as YAML has them: 0, 1, true and false are keys too."""
    if not isinstance(value, dict):
        return value
    if any(isinstance(text, bool) for text in value.values()):
        raise ValueError("yes, no, true and false are no text in YAML; write them in quotes")
    return {str(key).lower() if isinstance(key, bool) else str(key): text for key, text in value.items()}


Labels = Annotated[dict[str, str], BeforeValidator(_with_text_keys)]


class ColumnNames(StrictModel):
    """Which columns hold what, where their names do not tell it."""

    messages: str | None = None
    """The column of messages: a list of them, or the same as a JSON string. `null` names none."""

    prompt: str | None = None
    """The column of what is asked: a text, or a list of messages. `null` names none."""

    context: str | None = None
    """The column of what it is asked about, which follows the prompt behind a blank line. `null` names none."""

    answer: str | None = None
    """The column of the answer: a text, or a list of messages. `null` names none."""

    history: str | None = None
    """The column of the turns before, as Alpaca has them: a list of [asked, answered]. `null` names none."""

    system: str | None = None
    """The column of the system message. `null` takes `system` or `system_prompt`, where a row has one."""

    tools: str | None = None
    """The column of the functions that may be called. `null` takes `tools` or `functions`, where a row has one."""

    weight: str | None = None
    """The column of the row's weight, a number. Nothing is learned from a row of weight 0; other weights are kept with
    the row, and fine-tuning gives all of them the same. `null` reads none.
    """

    topic: str | None = None
    """The column of the row's topic. `null` takes `topic`, where a row has one."""


class InstructionTemplate(StrictModel):
    """How labelled rows become instructions. {name} stands for a column, {name[0]} for an item of a list in it."""

    prompt: Annotated[list[str], Field(min_length=1)] | str
    """What the user asks, or several templates for it, of which each row draws one by its own content."""

    answer: str
    """What the assistant answers, as in "{label}"."""

    system: str | None = None
    """What the system says before. `null` leaves it out."""

    labels: dict[str, Labels] = Field(default_factory=dict)
    """Column to the words for its values, as in {label: {0: negative, 1: positive}}. Rows with another value are
    quarantined as `unknown_label`.
    """

    @property
    def prompts(self) -> list[str]:
        """The templates for what the user asks."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    def problems(self) -> Iterator[tuple[str, str]]:
        """(setting, what is wrong with it) for every template that is none."""
        texts = [(f"prompt.{n}", text) for n, text in enumerate(self.prompts)] + [("answer", self.answer)]
        names: set[str] = set()
        for setting, text in texts + ([] if self.system is None else [("system", self.system)]):
            try:
                names |= {name for _, name, _ in parsed_template(text) if name}
            except ValueError as error:
                yield setting, f"is no template: {error}"
        for name in self.labels:
            if name not in names:
                yield f"labels.{name}", "is a column that no template names"


class RowSource(StrictModel):
    """Files of rows, and how these become conversations."""

    file_format: FileFormat | None = None
    """The format of all files, where their names do not tell it (.jsonl, .ndjson, .json, .parquet, .csv, .tsv, .arrow;
    .gz, .zst and .bz2 behind it). `null` goes by each file's name.
    """

    format: FormatName | None = None
    """What a row is. `null` looks at the columns of each row: `messages`, `conversations`, `instruction` and `output`,
    `instruction` and `response`, `prompt` and `completion`, `question` and `answer`.
    """

    columns: ColumnNames = ColumnNames()
    """Which columns hold what, where their names do not tell it. With `prompt` or `messages` set, rows are not looked
    at.
    """

    template: InstructionTemplate | None = None
    """How labelled rows become instructions. `null` takes rows as conversations."""

    system: str | None = None
    """A system message for every conversation that has none. `null` adds none."""

    def source_conflicts(self) -> Iterator[tuple[str, str]]:
        """(setting, what is wrong with it)."""
        if self.template is None:
            return
        yield from ((f"template.{setting}", message) for setting, message in self.template.problems())
        if self.format is not None:
            yield "format", "has no effect with a template, which says what a row is; leave one of them out"


class ConversationSet(RowSource):
    """One of the sets of a mixture."""

    inputs: Annotated[list[str], InputFiles(), Field(min_length=1)]
    """Files, directories and globs of this set, as above."""

    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """How often each training row of the set counts: 2 is twice, 0.25 a drawn quarter of them once, 2.5 twice and a
    drawn half once more. Held-out rows always count once.
    """

    max_rows: Annotated[int | None, Field(ge=1)] = None
    """Most rows of the set, of both sides together. They are drawn by their content, so that one more row in a file
    displaces at most one. `null` takes all.
    """


class BadWords(StrictModel):
    """Conversations with words or phrases of a list of your own; none is shipped."""

    files: Annotated[tuple[str, ...], ReferenceFiles(), Field(min_length=1)]
    """Files of words and phrases, one a line; `#` begins a comment. Their content counts in the fingerprint, not their
    place.
    """

    max_bad_words: Annotated[int, Field(ge=0)] = 0
    """Most occurrences of any of them that a conversation may have."""


class Contamination(StrictModel):
    """Conversations that share passages with evaluation sets, as the clean stage finds them in documents."""

    files: Annotated[tuple[str, ...], ReferenceFiles(), Field(min_length=1)]
    """The evaluation sets: JSON Lines, or text with a paragraph an item; plain, .gz, .bz2 or .zst. Their content counts
    in the fingerprint, not their place.
    """

    fields: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Fields of a JSON row that are looked for. `null` looks for every string in it."""

    ngram: Annotated[int, Field(ge=1, lt=2**63)] = 13
    """Words in a row that make an overlap."""

    min_terms: Annotated[int, Field(ge=1, lt=2**63)] = 8
    """Fewest words of an item that is shorter than `ngram` and is looked for whole. It is at most `ngram`."""


class PersonalData(StrictModel):
    """Personal data and secrets, replaced by placeholders such as `<EMAIL_ADDRESS>` in every message."""

    kinds: Annotated[tuple[PiiKind, ...], Field(min_length=1)] = get_args(PiiKind)
    """What is replaced; all kinds by default."""


class CleaningSettings(StrictModel):
    """What is cleaned, by the same parts as documents in the clean stage."""

    languages: Annotated[list[str], Field(min_length=1)] | None = None
    """Language codes to keep, as in [en, de]; conversations in other languages are dropped. `null` keeps all."""

    language_threshold: Fraction = 0.0
    """Least confidence in the language, with `languages`; conversations below are dropped. Short talk has little: 0,
    the default, goes by the likeliest language alone.
    """

    bad_words: BadWords | None = None
    """Drops conversations with words of a list. `null`, the default, turns it off."""

    contamination: Contamination | None = None
    """Drops conversations that share passages with evaluation sets. `null`, the default, turns it off."""

    pii: PersonalData | None = None
    """Replaces personal data and secrets by placeholders. `null`, the default, leaves them in the text."""


class LengthLimits(StrictModel):
    """How long conversations may be. Characters are code points, words are between white space."""

    min_answer_words: Annotated[int | None, Field(ge=1)] = None
    """Fewest words of the assistant in all its turns together; with fewer it is `answer_too_short`. `null` sets no
    limit. Prompts alone have no answer and pass.
    """

    min_answer_characters: Annotated[int | None, Field(ge=1)] = None
    """The same in characters, for languages without spaces. `null` sets no limit."""

    max_words: Annotated[int | None, Field(ge=1)] = None
    """Most words of all messages together; with more it is `too_long`. `null` sets no limit."""

    max_characters: Annotated[int | None, Field(ge=1)] = None
    """The same in characters. `null` sets no limit."""


class ConversationsConfig(StageConfig, RowSource):
    """Conversations from files: read once, without duplicates, split by first prompt for all stages that follow."""

    uses_seed: ClassVar[bool] = False  # all that is drawn goes by `split_seed` and the row itself
    stage_version: ClassVar[int] = 2  # 2: lines of rows, and other words for why rows are quarantined

    kind: Literal["conversations"] = "conversations"

    sections: ClassVar[Sections] = {
        "Inputs": ("inputs", "file_format", "format", "columns", "template", "system", "sets"),
        "Rows that are kept": (
            "mend",
            "keep_prompts",
            "deduplicate",
            "one_per_prompt",
            "ignore_punctuation",
            "length",
            "cleaning",
        ),
        "Split": ("heldout_fraction", "split_seed"),
        "Execution": ("workers", "max_workers"),
    }

    inputs: Annotated[list[str] | None, InputFiles(), Field(min_length=1)] = None
    """Files, directories and globs of JSON Lines, JSON, Parquet, CSV, TSV or Arrow; all but Parquet and Arrow also .gz,
    .zst or .bz2. A file that is named twice, however it is spelt, is read once. `null` reads `sets`.
    """

    sets: dict[SetName, ConversationSet] = Field(default_factory=dict)
    """Several sets that are read in different ways or weighed against one another: a name of your own to its settings.
    Rows keep the name as their source, and the report counts them by it. Sets are read in the order of their names, so
    of rows with the same content the one of the first name stays.
    """

    mend: list[Mend] = Field(default_factory=list)
    """What is mended of conversations in another order, which are quarantined otherwise. `merge_turns` makes one of
    several turns of one speaker; `drop_first_answers` leaves out what the assistant says before the user;
    `drop_last_prompts` leaves out what the user says last and nobody answers.
    """

    keep_prompts: bool = False
    """Whether rows that end with the user are kept as prompts, for stages that answer them. Otherwise they are
    quarantined as `no_answer` or `user_at_end`.
    """

    deduplicate: bool = True
    """Whether repeated conversations count once. All that is said is compared, with tools, calls and reasoning."""

    one_per_prompt: bool = False
    """Whether of all conversations with the same first prompt the first one alone stays."""

    ignore_punctuation: bool = False
    """Whether prompts that differ in punctuation and accents alone count as the same: a training row is then dropped
    too where it asks a held-out prompt in other punctuation, and `one_per_prompt` keeps one of them. On which side of
    the split a prompt belongs goes by its own spelling all the same.
    """

    length: LengthLimits = LengthLimits()
    """How long conversations may be. Nothing is limited by default."""

    cleaning: CleaningSettings = CleaningSettings()
    """What is cleaned, by the same parts as documents in the clean stage. Nothing is by default."""

    heldout_fraction: Fraction = 0.2
    """Share of first prompts, with all that follows on them, that is kept out of training. Every stage that reads this
    one's conversations trains on the others and measures on these.
    """

    split_seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    """Chooses which first prompts are held out, and which rows of a set are drawn."""

    workers: Resources = not_in_fingerprint(default_factory=Resources)
    """What each task gets that reads a range of a file. Up to 32 MiB are read without tasks."""

    max_workers: Annotated[int | None, Field(ge=1)] = not_in_fingerprint(default=None)
    """Most tasks at the same time. `null` runs as many as the cluster has room for."""

    def sources(self) -> dict[str, ConversationSet]:
        """The sets by name, in their order; `inputs` alone are one set, whose name is empty."""
        if self.inputs is None:
            return dict(sorted(self.sets.items()))
        own = {name: getattr(self, name) for name in RowSource.model_fields}
        return {"": ConversationSet(inputs=self.inputs, **own)}

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from super().conflicts()
        if (self.inputs is None) == (not self.sets):
            yield "inputs", "must be given, or `sets`, and not both"
        if self.sets:
            for name, info in RowSource.model_fields.items():
                if getattr(self, name) != info.default:
                    yield name, "has no effect beside `sets`, each of which has its own"
        limits = self.cleaning.contamination
        if limits is not None and limits.min_terms > limits.ngram:
            yield "cleaning.contamination.min_terms", f"is more than ngram ({limits.ngram}), so nothing would be found"
        yield from self.source_conflicts()
        for name, each in self.sets.items():
            yield from ((f"sets.{name}.{setting}", message) for setting, message in each.source_conflicts())

    def check_input(self, uri: str) -> None:
        """Raise `InputError` for a file of no known format."""
        if all(each.file_format is None for each in self.sets.values()):
            file_format(uri, self.file_format)

    def roles(self) -> list[tuple[str, int, Resources]]:
        return [("worker", 1, self.workers)]
