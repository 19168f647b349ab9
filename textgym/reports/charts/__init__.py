"""The pictures of the reports, as SVG that can stand inside a page."""
