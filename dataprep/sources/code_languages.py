"""Programming languages by file name. Imports nothing: a spec is checked by it."""

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
    "java": "java",
    "javascript": "js jsx mjs cjs",
    "julia": "jl",
    "kotlin": "kt kts",
    "lean": "lean",
    "lisp": "lisp lsp el scm ss rkt",
    "lua": "lua",
    "makefile": "mk mak",
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
    "ruby": "rb",
    "rust": "rs",
    "scala": "scala sc",
    "shell": "sh bash zsh",
    "solidity": "sol",
    "sql": "sql",
    "swift": "swift",
    "tcl": "tcl",
    "tex": "tex",
    "typescript": "ts tsx",
    "vb": "vb",
    "verilog": "v sv",
    "vhdl": "vhd vhdl",
    "vue": "vue",
    "zig": "zig",
}
_BY_EXTENSION = {extension: language for language, listed in _EXTENSIONS.items() for extension in listed.split()}
_BY_NAME = {"makefile": "makefile", "gnumakefile": "makefile", "dockerfile": "dockerfile", "cmakelists.txt": "cmake"}
# Written by people beside code. Only read as code where a spec says `format: code`.
_COMPANIONS = {
    "html": "html", "htm": "html", "json": "json", "md": "markdown", "rst": "restructuredtext", "toml": "toml",
    "xml": "xml", "yaml": "yaml", "yml": "yaml",
}  # fmt: skip


def is_source_code(name: str) -> bool:
    """Whether a file's name alone tells that it is source code."""
    return _language(name, _BY_EXTENSION) is not None


def code_language(uri: str) -> str | None:
    """The language of a file in a source tree, in lower case ("python", "c++"); None: its name does not tell."""
    return _language(uri, {**_BY_EXTENSION, **_COMPANIONS})


def _language(uri: str, by_extension: dict[str, str]) -> str | None:
    name = uri.rsplit("/", 1)[-1].lower()
    return _BY_NAME.get(name) or (by_extension.get(name.rsplit(".", 1)[1]) if "." in name else None)
