"""Pages of the documentation site that are made from code and from results while the site is built.

``mkdocs.yml`` names :mod:`scripts.site_pages.hooks`; each other module here makes one kind of page.
"""
