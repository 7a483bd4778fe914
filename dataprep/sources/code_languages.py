"""The programming language of a file, told by its name."""

from __future__ import annotations

_EXTENSIONS = {
    "ada": "adb ads",
    "assembly": "asm s",
    "c": "c h",
    "c++": "cc cpp cxx hh hpp hxx",
    "c#": "cs",
    "clojure": "clj cljs",
    "cmake": "cmake",
    "cobol": "cbl cob",
    "css": "css scss sass less",
    "cuda": "cu cuh",
    "dart": "dart",
    "elixir": "ex exs",
    "elm": "elm",
    "erlang": "erl hrl",
    "f#": "fs fsx",
    "fortran": "f f90 f95 f03 for",
    "go": "go",
    "graphql": "graphql",
    "groovy": "groovy gradle",
    "haskell": "hs lhs",
    "html": "html htm",
    "java": "java",
    "javascript": "js jsx mjs cjs",
    "json": "json",
    "julia": "jl",
    "kotlin": "kt kts",
    "lean": "lean",
    "lisp": "lisp lsp el scm ss rkt",
    "lua": "lua",
    "makefile": "mk mak",
    "markdown": "md",
    "matlab": "m",
    "ocaml": "ml mli",
    "pascal": "pas pp",
    "perl": "pl pm",
    "php": "php",
    "powershell": "ps1 psm1",
    "prolog": "pro",
    "protobuf": "proto",
    "python": "py pyi pyx",
    "r": "r",
    "restructuredtext": "rst",
    "ruby": "rb",
    "rust": "rs",
    "scala": "scala sc",
    "shell": "sh bash zsh",
    "solidity": "sol",
    "sql": "sql",
    "swift": "swift",
    "tcl": "tcl",
    "tex": "tex",
    "toml": "toml",
    "typescript": "ts tsx",
    "vb": "vb",
    "verilog": "v sv",
    "vhdl": "vhd vhdl",
    "vue": "vue",
    "xml": "xml",
    "yaml": "yaml yml",
    "zig": "zig",
}
_BY_EXTENSION = {extension: language for language, listed in _EXTENSIONS.items() for extension in listed.split()}
CODE_LANGUAGES = frozenset(_EXTENSIONS) | {"dockerfile"}  # what `code_language` gives; no natural language's code
_BY_NAME = {"makefile": "makefile", "gnumakefile": "makefile", "dockerfile": "dockerfile", "cmakelists.txt": "cmake"}


def code_language(uri: str) -> str | None:
    """The language of a file, in lower case ("python", "c++"); None where its name does not tell."""
    name = uri.rsplit("/", 1)[-1].lower()
    return _BY_NAME.get(name) or (_BY_EXTENSION.get(name.rsplit(".", 1)[1]) if "." in name else None)
