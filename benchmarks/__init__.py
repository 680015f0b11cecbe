"""Installed as ``marlzoo.benchmarks``; see pyproject.toml."""

if __name__ != "marlzoo.benchmarks":
    raise ImportError(
        "import this package as 'marlzoo.benchmarks' (after 'make install'), not as 'benchmarks'"
    )
