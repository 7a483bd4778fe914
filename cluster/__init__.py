"""Job specs, artifacts, the runner, submission, the CLI and reports.

The only package that imports the other three. Begin with `runner.py`: it turns a spec into finished
artifacts; `spec.py` says what a spec is, `stages.py` which stages there are.
"""
