"""Job specs, artifacts, the runner, submission, the command line and reports: what joins the other three packages.

`cluster` alone imports `dataprep`, `training` and `serving`; these import of it only `cluster.contracts`.

Begin with `runner.py`, which turns a spec into finished artifacts, stage by stage.

    From a spec to a plan
    spec.py             YAML in, a checked graph of stages out, with every problem at once
    stage_kinds.py      which kinds of stages there are; each is declared in its own folder
    setting_texts.py    what each setting is: meaning, type, default; read off the models
    schema.py           the same as a JSON Schema, for editors
    reference_pages.py  the same as pages, docs/stages: `make docs`
    fingerprint.py      what names an artifact: a hash of all that determines its content
    plan.py             each stage's fingerprint, its place, and whether it is there already

    Running it
    runner.py           every stage that is not there yet, one after another
    run_forecast.py     what is told before a run and after it
    start_ahead.py      workers and servers, started while the stages before theirs run
    interrupts.py       Ctrl-C and SIGTERM, so that a stopped run ends as stopped
    run_record.py       `<storage>/runs/<name>.json`: which artifact each stage of a run became
    ray_session.py      starting or joining Ray; checks of memory, disk and shared storage
    submit.py           the same spec as a job on a cluster
    run_without_ray.py  one training stage in plain processes
    starting_models.py  models that stages are given: checked before workers start, adapters merged with their base
    ppo_stage.py, candidates_stage.py, evaluate_stage.py   the stages that need both `training` and `serving`
    answer_client.py    what such stages let models answer with
    conversations_stage.py, conversation_cleaning.py   what needs both `training` and `dataprep`

    What people see
    cli.py              the `raymill` command
    explain.py          `raymill explain`: settings as text
    terminal.py         progress on a terminal, or as plain lines; keeps libraries' chatter in a log
    progress.py         progress from any process to that display
    model_card.py       README.md beside a model: data, settings, figures, lineage
    card_lineage.py     gathers what a card tells
    report/             the report of a run
    inspect.py, inspect_conversations.py   what a corpus or conversations hold, what was dropped and why
    verify.py           every file against its size and SHA-256
    harness.py          lm-eval's tasks, asked of a run's model over HTTP
    serve.py            a run's models behind HTTP on this machine

    contracts/          what all four packages share
"""
