"""Raw documents to clean, deduplicated, tokenised Arrow shards, on Ray.

Begin with `clean/stage.py`, what the driver does, and `clean/part.py`, what becomes of one input shard in one task. The
other stages have the same two files. Algorithms stand in modules that import no Ray.

    Stages
    clean/              raw files to documents: extracted, in a known language, filtered, signed
    repeated_lines/     cuts lines that stand in many documents
    dedupe/             finds equal texts, equal URLs and near copies
    tokenizer/          trains a byte-level BPE tokenizer
    tokenize/           documents to token shards
    mixture/            weighs sources, languages and lengths
    quality_classifier/ trains a model of good and bad pages

    What stages share
    sources/            files to records, whatever their format
    extract/            a page's main text, by processes that can be killed
    text/               words, terms, lines and edits of columns of texts
    filters/            the families of rules, language, quality, decontamination
    pii/                personal data and secrets
    signatures/         hashes and MinHashes of a document
    documents.py        the tables of a part, and the shard table that lists parts
    sampling.py         drawing documents by their content
    ray_tasks.py        one Ray task for each unit of work, tried again where it dies
    killable_process.py work in a process that is ended when it takes too long or too much
    kernel_cache.py, compile_kernels.py   where Numba's kernels are kept compiled
    config.py           settings that several stages share
"""
