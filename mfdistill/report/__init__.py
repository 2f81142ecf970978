"""Tables, figures and model cards."""

from mfdistill.report.card import model_card
from mfdistill.report.curves import curves_plot
from mfdistill.report.quality import quality_plot
from mfdistill.report.schedules import comparison_table, o3s_plot
from mfdistill.report.tables import markdown_table, table, write_table

__all__ = [
    "comparison_table",
    "curves_plot",
    "markdown_table",
    "model_card",
    "o3s_plot",
    "quality_plot",
    "table",
    "write_table",
]
