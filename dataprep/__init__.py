"""The data room: raw files in; clean, deduplicated and tokenised documents out, on Ray.

Begin with `clean/stage.py`, what the driver does, and `clean/part.py`, what becomes of one input shard in one task.
Every stage is a folder with the same names in it: config (its settings), stage, and part where there are tasks for
parts. Its algorithms stand beside these and import no Ray.

    Stages, in the order of the pipeline
    quality_classifier/  good documents and others to a classifier, which clean may apply
    clean/               raw files to documents: read, extracted, normalised, filtered, redacted, signed
    repeated_lines/      cuts lines that stand in many documents
    dedupe/              finds equal texts, equal URLs and near copies, and says which documents go
    tokenizer/           trains a byte-level BPE tokenizer on the documents that are left
    tokenize/            these documents to token shards
    mixture/             says how often each range of the shards comes in training

    What stages share
    sources/             files to records, a module for each format
    extract/             the main text of a page, by processes that can be killed
    text/                columns of texts: words, terms, lines, edits, the normal form
    filters/             the rules: a module for each family, and language, quality, decontamination
    pii/                 personal data and secrets, replaced by placeholders
    signatures/          what documents are compared by: hashes of texts and URLs, MinHashes
    documents.py         the tables of a part, and the shard table that lists parts
    sampling.py          how often groups of documents are taken, by size and weight
    ray_tasks.py         one Ray task for each unit of work, tried again where it dies
    killable_process.py  work in a process that is ended when it takes too long or too much
    kernel_cache.py, compile_kernels.py   where Numba's kernels are kept compiled
    config.py            settings that several stages share
"""
