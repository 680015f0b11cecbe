"""Installed as ``marlzoo.baselines``; see pyproject.toml."""

if __name__ != "marlzoo.baselines":
    raise ImportError("import this package as 'marlzoo.baselines' (after 'make install'), not as 'baselines'")
