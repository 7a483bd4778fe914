"""The `raymill` command: run, train, plan, submit, export, serve, chat, evaluate, report, inspect and so on."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from cluster.contracts.errors import InputError, Problem, RaymillError, SpecError
from cluster.interrupts import STOPPED, watched_interrupts
from cluster.run_record import DEFAULT_STORAGE, read_run
from cluster.terminal import Terminal, quiet_terminal

if TYPE_CHECKING:
    from cluster.spec import JobSpec

app = typer.Typer(
    help="Takes a raw web crawl in and gives a served, aligned language model out, as one job spec says. It runs alike"
    " on a laptop and on a Ray cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

SpecPath = Annotated[
    Path, typer.Argument(metavar="SPEC", help="The job spec, a YAML file such as job_specs/quickstart.yaml.")
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="The run: the `name` in its spec, or the path of its .json file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Override one setting of the spec, as in --set stages.dpo.beta=0.2. May be given several times; the value"
        " is read as YAML.",
    ),
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIRECTORY|URI",
        help="Where artifacts, runs and reports go: a directory or an s3:// URI.  [default: `storage` of the spec]",
    ),
]
RunStorage = Annotated[
    str, typer.Option("--storage", help="The storage that the run was written to: a directory or s3:// URI.")
]


@app.command()
def run(
    spec: SpecPath,
    storage: StorageOption = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="The Ray cluster to join: its address, or `auto` on one of its nodes.  [default: a Ray of its own,"
            " started on this machine and stopped at the end]"
        ),
    ] = None,
    settings: SetOption = None,
) -> None:
    """Run the stages of a spec that are not there yet.

    Then the report is written. A run that was stopped or killed goes on when the same command is given again.
    """
    job = _load(spec, storage, settings)
    from cluster.runner import log_directory, run_spec

    with quiet_terminal(log_directory(job) / "driver.log") as terminal:

        def say_stopped() -> None:
            terminal.line("\nstopped. What is finished is kept; the same command goes on from there:")
            terminal.line(f"    raymill {' '.join(sys.argv[1:])}")

        def leave() -> None:  # with a main thread that still waits for something
            say_stopped()
            if "cluster.ray_session" in sys.modules:
                sys.modules["cluster.ray_session"].end_left_processes(wait_s=0.0)

        with watched_interrupts(leave) as interrupts:
            try:
                run_spec(job, terminal, address=address, interrupts=interrupts)
            except BaseException as error:
                if interrupts.asked_to_stop or isinstance(error, KeyboardInterrupt):  # whatever became of the interrupt
                    say_stopped()
                    raise typer.Exit(STOPPED) from None
                if not isinstance(error, RaymillError):
                    raise
                terminal.line(f"\n{error}", style="red")
                if not isinstance(error, SpecError | InputError):
                    terminal.line(f"log: {terminal.log_path}", style="dim")
                    terminal.line("what is finished is kept; the same command goes on from there", style="dim")
                raise typer.Exit(error.exit_code) from None


@app.command()
def train(
    spec: SpecPath,
    stage: Annotated[
        str, typer.Argument(metavar="STAGE", help="A training stage of the spec, whose inputs are finished already.")
    ],
    storage: StorageOption = None,
    settings: SetOption = None,
) -> None:
    """Run one training stage without Ray.

    It runs in this process, or as a rank of torchrun, and makes the same artifact. For several workers:
    torchrun --nproc-per-node N -m cluster train SPEC STAGE
    """
    job = _load(spec, storage, settings)
    from cluster.run_without_ray import train_stage
    from cluster.runner import log_directory

    log = log_directory(job) / f"{stage}-rank{os.environ.get('RANK', '0')}.log"
    with quiet_terminal(log) as terminal, watched_interrupts() as interrupts:
        try:
            train_stage(job, stage, terminal)
        except BaseException as error:
            if interrupts.asked_to_stop or isinstance(error, KeyboardInterrupt):
                terminal.line("\nstopped; the same command goes on from the newest checkpoint")
                raise typer.Exit(STOPPED) from None
            if not isinstance(error, RaymillError):
                raise
            terminal.line(f"\n{error}", style="red")
            raise typer.Exit(error.exit_code) from None


@app.command()
def plan(spec: SpecPath, storage: StorageOption = None, settings: SetOption = None) -> None:
    """Check a spec, and show what would run. Nothing is changed.

    What is there already is shown as such, with the fingerprint that names its directory.
    """
    job = _load(spec, storage, settings)
    from cluster.plan import make_plan

    table = Table("stage", "kind", "inputs", "processes at once", "state", "fingerprint", box=None, pad_edge=False)
    table.columns[-1].no_wrap = True  # a fingerprint is copied from here, so it is shown whole
    for stage in make_plan(job):
        roles = ", ".join(f"{count} {role} x {r.cpus:g} CPU" for role, count, r in stage.config.roles())
        inputs = ", ".join(dict.fromkeys(job.dependencies(stage.name).values()))
        state = "there" if stage.finished else "to run"
        table.add_row(stage.name, stage.kind, inputs, roles, state, stage.fingerprint)
    Console().print(table)


@app.command()
def submit(
    spec: SpecPath,
    address: Annotated[str, typer.Option(help="The address of the cluster's dashboard, as in http://HEAD:8265.")],
    storage: StorageOption = None,
    settings: SetOption = None,
    follow: Annotated[
        bool,
        typer.Option(help="Show the job's log until it ends, and exit with its code; or return once it is submitted."),
    ] = True,
) -> None:
    """Run a spec as a job on a Ray cluster that is up already.

    Raymill's packages, the spec and inputs on this machine are sent along; the cluster needs the Python packages, and
    storage that all its nodes see.
    """
    job = _load(spec, storage, settings)
    from cluster.submit import submit_job

    try:
        code = submit_job(job, address=address, follow=follow, write=lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        print("\nno longer following; the job goes on. `ray job stop` or `ray job logs` with the id above.")
        raise typer.Exit(STOPPED) from None
    raise typer.Exit(code)


@app.command()
def export(
    stage_uri: Annotated[
        str, typer.Argument(metavar="STAGE", help="The directory or URI of a finished pretrain stage.")
    ],
    output: Annotated[str, typer.Argument(metavar="OUT", help="The directory or URI to write the model to.")],
    step: Annotated[
        int | None, typer.Option(help="The step of the checkpoint.  [default: the newest that was kept]")
    ] = None,
) -> None:
    """Make a Hugging Face model of a checkpoint that pre-training kept.

    A stage keeps those that its settings keep_every_steps and keep_best name.
    """
    from training.pretrain.export_checkpoint import export_checkpoint

    checkpoint = export_checkpoint(stage_uri, output, step=step)
    Console().print(f"the model of step {checkpoint.step} is in {output}")


@app.command()
def serve(
    run_name: RunName,
    storage: RunStorage = DEFAULT_STORAGE,
    model: Annotated[
        str | None,
        typer.Option(help="The stage whose model is served.  [default: the most aligned model that is finished]"),
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen on. One that other machines reach is refused without API keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 8000,
    key_file: Annotated[
        Path | None,
        typer.Option(
            help="A file with an API key a line, beside those in the variable RAYMILL_API_KEYS.  [default: no keys are"
            " asked for]"
        ),
    ] = None,
    cpus: Annotated[int, typer.Option(min=1, help="CPUs, shared evenly by the policy and the reward model.")] = 2,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs, shared in the same way; with 0 both models run on CPUs.")] = 0,
) -> None:
    """Serve a run's model over HTTP, in OpenAI's shapes.

    Its reward model is served too, where it has one, until Ctrl-C. The endpoints are /v1/chat/completions,
    /v1/completions, /v1/score, /v1/models and /healthz.
    """
    record = read_run(run_name, storage)
    from cluster.serve import serve_run

    serve_run(record, stage=model, host=host, port=port, key_file=key_file, cpus=cpus, gpus=gpus)


@app.command()
def chat(
    run_name: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="The run whose model answers; or give --url.")
    ] = None,
    storage: RunStorage = DEFAULT_STORAGE,
    model: Annotated[
        str | None,
        typer.Option(help="The stage whose model answers.  [default: the most aligned model that is finished]"),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="Talk to a server that runs already, at this address; its key is in RAYMILL_API_KEYS."),
    ] = None,
) -> None:
    """Talk to a run's model in the terminal.

    There, /reset forgets the conversation and /quit leaves.
    """
    if (run_name is None) == (url is None):
        raise SpecError(
            [
                Problem(
                    "", None, "needs either a run or --url", "raymill chat RUN, or raymill chat --url http://HOST:8000"
                )
            ],
            "raymill chat",
        )
    from cluster.serve import chat_with_run, chat_with_url

    if url is not None:
        chat_with_url(url)
    elif run_name is not None:
        chat_with_run(read_run(run_name, storage), stage=model)


@app.command()
def evaluate(
    run_name: RunName,
    harness: Annotated[
        str,
        typer.Option(
            metavar="TASKS",
            help="Tasks of lm-eval, commas between them, such as gsm8k,ifeval. They must be generation tasks. Needs the"
            " extra `harness`; most tasks download their data.",
        ),
    ],
    storage: RunStorage = DEFAULT_STORAGE,
    model: Annotated[
        str | None,
        typer.Option(help="The stage whose model is asked.  [default: the most aligned model that is finished]"),
    ] = None,
    task_directory: Annotated[
        Path | None, typer.Option(help="A directory with tasks of one's own, in lm-eval's YAML.")
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(min=0, help="Examples before each question.  [default: the task's own]")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Items of each task.  [default: all]")] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer, in tokens, where a task names no length.")
    ] = 256,
    cpus: Annotated[int, typer.Option(min=1, help="CPUs of the server.")] = 2,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of the server; with 0 it runs on CPUs.")] = 0,
) -> None:
    """Ask a run's model the tasks of lm-eval, over HTTP.

    What a spec can measure by itself stands in its evaluate stage.
    """
    record = read_run(run_name, storage)
    from cluster.harness import evaluate_by_harness

    with quiet_terminal(Path(os.path.expanduser("~/.cache/raymill/harness.log"))) as terminal:
        scores, results = evaluate_by_harness(
            record,
            [task for task in harness.split(",") if task],
            terminal,
            stage=model,
            task_directory=task_directory,
            num_fewshot=num_fewshot,
            limit=limit,
            max_new_tokens=max_new_tokens,
            cpus=cpus,
            gpus=gpus,
        )
        for score in scores:
            error = "" if score.standard_error is None else f" ± {score.standard_error:.4g}"
            terminal.line(f"{score.task:<24} {score.metric:<36} {score.value:.4g}{error}")
        terminal.line(f"results: {results}")


@app.command()
def report(
    run_name: RunName,
    other_run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="A second run. With it, the two runs are written side by side."),
    ] = None,
    storage: RunStorage = DEFAULT_STORAGE,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.html",
            help="Where the page of two runs goes, with its JSON file beside it. [default: the first run's directory]",
        ),
    ] = None,
) -> None:
    """Write a run's report.html and report.json again, or set two runs side by side, and print where the page is."""
    if other_run is None:
        if output is not None:
            raise SpecError(
                [Problem("--output", output, "is for two runs", "a run's own report lies in its directory")],
                "raymill report",
            )
        from cluster.report.write import write_report

        print(write_report(read_run(run_name, storage)))
        return
    runs = read_run(run_name, storage), read_run(other_run, storage)
    from cluster.report.compare import write_comparison

    place = output if output is None or "://" in output else os.path.abspath(output)
    print(write_comparison(*runs, place))


@app.command()
def inspect(
    corpus: Annotated[
        str,
        typer.Argument(
            metavar="CORPUS",
            help="A run's name, or the directory of a clean, repeated_lines, dedupe or conversations stage. Of a run,"
            " the last of the first three counts, or its conversations where it has none of them.",
        ),
    ],
    storage: RunStorage = DEFAULT_STORAGE,
    stage: Annotated[str | None, typer.Option(metavar="NAME", help="Which stage of the run to look into.")] = None,
    url: Annotated[
        str | None,
        typer.Option(help="Say only what became of the page at this URL; exit with 1 where no record has it."),
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Documents to show for each reason.")] = 2,
) -> None:
    """Show what a corpus holds, and what was dropped and why.

    With examples of each reason; or, with --url, what became of one page.
    """
    from cluster.inspect import (
        count_quarantined_without_url,
        find_url,
        open_corpus,
        print_fates,
        print_summary,
        summarise,
    )
    from cluster.inspect_conversations import KIND, inspected_stage, print_conversations

    inspected = inspected_stage(corpus, storage, stage)
    if inspected is not None and inspected.manifest.kind == KIND:
        if url is not None:
            raise InputError(f"{inspected.uri} holds conversations, which have no URL; leave --url out")
        print_conversations(inspected, Console(), examples=examples)
        return
    artifact = open_corpus(corpus if inspected is None else inspected.uri, storage)
    if url is None:
        print_summary(artifact, summarise(artifact, examples=examples), Console())
        return
    fates = list(find_url(artifact, url))
    quarantined = 0 if fates else count_quarantined_without_url(artifact)
    print_fates(url, fates, quarantined, Console())
    raise typer.Exit(0 if fates else 1)


@app.command()
def verify(
    target: Annotated[
        str, typer.Argument(metavar="URI_OR_RUN", help="The directory or URI of an artifact, or a run's name.")
    ],
    storage: RunStorage = DEFAULT_STORAGE,
) -> None:
    """Compare files with their SHA-256 of when they were written.

    Reads every file of an artifact, or of all finished stages of a run. Exits with 1 if any differs, and names
    those files.
    """
    from cluster.verify import artifacts_of, bad_files, expected_files

    files, bad = expected_files(artifacts_of(target, storage))
    for unlisted in bad:
        print(f"{unlisted.uri} {unlisted.problem}")
    terminal = Terminal(Console(stderr=True))
    total, done = sum(file.size for file in files.values()) / 1e6, 0.0
    with terminal.stage(f"verify {target}", 1, 1) as bar:

        def read(count: int) -> None:
            nonlocal done
            done += count / 1e6
            bar.update(done, total, "MB", {})

        for found in bad_files(files, read):
            bad.append(found)
            print(f"{found.uri} {found.problem}", flush=True)
    print(f"{len(files)} files, {total:,.0f} MB: {'all as written' if not bad else f'{len(bad)} bad'}")
    raise typer.Exit(1 if bad else 0)


@app.command()
def explain(
    target: Annotated[
        str | None,
        typer.Argument(metavar="[KIND[.SETTING]]", help="a stage kind, `spec`, or one setting, as in pretrain.lr"),
    ] = None,
) -> None:
    """List the stage kinds, a kind's settings with their meaning, or one setting."""
    from cluster.explain import explain as write_explanation

    write_explanation(target, Console(highlight=False))


@app.command()
def schema(
    output: Annotated[Path | None, typer.Option(help="the file to write; without it the schema is printed")] = None,
) -> None:
    """Write the JSON Schema of a job spec, by which editors complete and check settings."""
    from cluster.schema import schema_text, spec_schema
    from cluster.stage_kinds import STAGE_KINDS

    text = schema_text(spec_schema(STAGE_KINDS.values()))
    if output is None:
        print(text, end="")
    else:
        output.write_text(text)


def main() -> None:
    """The console entry point: deliberate errors become a message and an exit code, never a stack trace."""
    try:
        app()
    except SystemExit as stop:
        if stop.code != STOPPED:
            raise
        # Ray, interrupted as it started, can crash while the interpreter ends. All is stopped and said by now.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(STOPPED)
    except RaymillError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


def _load(spec: Path, storage: str | None, settings: list[str] | None) -> JobSpec:
    from cluster.spec import load_spec  # with every kind's settings, which `--help` can do without

    overrides: dict[str, Any] = {}
    for setting in settings or ():
        path, separator, value = setting.partition("=")
        if not separator:
            raise SpecError(
                [Problem("--set", setting, "has no '='", "PATH=VALUE, as in stages.dpo.beta=0.2")], "the command line"
            )
        try:
            overrides[path] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SpecError(
                [Problem(f"--set {path}", value, "is not a YAML value", "quote it, as in PATH='[1, 2]'")],
                "the command line",
            ) from error
    if storage is not None:
        overrides["storage"] = storage if "://" in storage else os.path.abspath(storage)
    return load_spec(spec, overrides)
