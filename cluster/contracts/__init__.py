"""What all rooms share, and nothing else: formats that pass between them, storage, errors and progress.

A leaf: it imports none of the other packages, and all of them may import it. Begin with `artifacts.py` (what passes
between stages) and `commit.py` (how anything becomes visible).

    artifacts.py      a stage's output: directory, manifest, list of files
    commit.py         all-or-nothing output of one unit of work
    storage.py        every path is a URI; reading and writing files, local or remote
    retry.py          trying again where a store fails for a while
    compression.py    decompression in bounded chunks, which tells damage from an end
    config.py         the base of every stage's settings
    stage_kind.py     what the runner and the report know of a kind of stage
    records.py        rows and requests that more than one room handles
    tokens.py         the format of token shards and their index
    source_names.py   what the sources of tokens are called
    hashing.py        pseudo-random bits that results rest on
    errors.py         the errors that are raised on purpose
    progress.py       how work tells that it moves
"""
