"""Models from outside, looked at before any worker starts: what is wrong with a directory, each with its mend.

    check.py            the one check: whole models and adapters, every problem at once
    directory.py        what can be said from file names, JSON and the heads of weight files
    tensor_headers.py   names, types and shapes of tensors, from the heads of safetensors files
    adapter_layers.py   adapters and the bases that they stand on
    inspection.py       what transformers makes of a directory: missing tensors, shapes, the tokenizer
    merge.py            adapter and base merged to one model

`directory`, `tensor_headers` and `adapter_layers` import neither torch nor transformers, as `raymill plan` loads them.
"""
