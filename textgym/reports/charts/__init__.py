"""The charts of the reports, as SVG elements of a page."""
