"""What people see: plots for papers, and the report as one self-contained HTML file.

Results know nothing of this package, and it computes no statistics: every number comes from the stored analysis.
matplotlib and jinja2 are imported by the modules below, so this package is imported on demand.
"""
