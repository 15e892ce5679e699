"""What happened: the store, the front, selection, plots, report, exporters."""
