"""Data preparation beside datatrove 0.10.1, Hugging Face tokenizers and scipy: the seven bars that can be measured.

`python -m benchmarks.dataprep --help` lists the options. Begin with `__main__.py`; each bar's measurement stands in
the module named in its table, what runs in the peer's own interpreter in `peer.py`.
"""
