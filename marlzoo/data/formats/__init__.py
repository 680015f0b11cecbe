"""Readers and writers of published dataset formats, one module each.

:mod:`marlzoo.data.readers` lists what is read, :mod:`marlzoo.data.convert` what is written.

A reader states in its docstring what it assumes about its format, and repeats in the card's notes what it
assumed about the file at hand. Every reader raises :class:`marlzoo.errors.DataError` for whatever is wrong with
a file and executes nothing of it.
"""
