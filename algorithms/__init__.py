"""Installed as ``marlzoo.algorithms``; see pyproject.toml."""

if __name__ != "marlzoo.algorithms":
    raise ImportError(
        "import this package as 'marlzoo.algorithms' (after 'make install'), not as 'algorithms'"
    )
