//! A line chart: some series over one axis, with a legend, as an SVG whose labels can be read at half its size.

use std::path::Path;

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

/// Of the picture, in pixels.
const SIZE: (u32, u32) = (1_000, 620);
const TITLE_PX: u32 = 28;
const TEXT_PX: u32 = 22;
const MARGIN_PX: u32 = 16;
/// Half of the last number below the axis stands beyond its end.
const RIGHT_PX: u32 = 40;
/// Fine lines between two numbers of an axis.
const FINE_LINES: usize = 1;
/// Room for the labels of the axes.
const LABELS_PX: u32 = 76;
const LINE_PX: u32 = 3;
const DOT_PX: u32 = 5;
/// The legend stands between title and lines, in columns.
const LEGEND_COLUMNS: usize = 2;
const LEGEND_ROW_PX: i32 = 30;
const LEGEND_LINE_PX: i32 = 28;

/// Told apart by people who see no difference between red and green, too: the colours of Okabe and Ito, 2008.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// What an axis says, and where it ends.
#[derive(Debug, Clone)]
pub struct Axis {
    /// What it shows, and in which unit.
    pub label: String,
    /// Its first value.
    pub from: f64,
    /// Its last value.
    pub to: f64,
    /// Whether equal steps are equal factors. The first value is above 0 then.
    pub is_logarithmic: bool,
}

/// One line of a chart.
#[derive(Debug, Clone)]
pub struct Series {
    /// What it is.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
}

/// A chart.
#[derive(Debug, Clone)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// From left to right.
    pub x: Axis,
    /// From the bottom to the top.
    pub y: Axis,
    /// At most six.
    pub series: Vec<Series>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

impl Chart {
    /// Draws it into a file.
    ///
    /// # Errors
    /// If an axis has no length, there are more series than colours, or the file can't be written.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        for axis in [&self.x, &self.y] {
            let is_proper = axis.from < axis.to && (!axis.is_logarithmic || axis.from > 0.0);
            anyhow::ensure!(is_proper, "the axis of {} has no length", axis.label);
        }
        anyhow::ensure!(self.series.len() <= COLOURS.len(), "more series than colours");
        let area = SVGBackend::new(path, SIZE).into_drawing_area();
        self.draw(&area).map_err(|error| anyhow!("can't draw {}: {error}", path.display()))
    }

    fn draw(&self, area: &Area<'_>) -> anyhow::Result<()> {
        area.fill(&WHITE)?;
        let area = area.titled(&self.title, ("sans-serif", TITLE_PX))?;
        let rows = self.series.len().div_ceil(LEGEND_COLUMNS) as i32;
        let (legend, area) = area.split_vertically(rows * LEGEND_ROW_PX);
        self.draw_legend(&legend)?;
        let (x, y) = (self.x.from..self.x.to, self.y.from..self.y.to);
        match (self.x.is_logarithmic, self.y.is_logarithmic) {
            (false, false) => self.draw_on(&area, x, y),
            (true, false) => self.draw_on(&area, x.log_scale(), y),
            (false, true) => self.draw_on(&area, x, y.log_scale()),
            (true, true) => self.draw_on(&area, x.log_scale(), y.log_scale()),
        }
    }

    fn draw_on<X, Y>(&self, area: &Area<'_>, x: X, y: Y) -> anyhow::Result<()>
    where
        X: AsRangedCoord<Value = f64>,
        Y: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let mut builder = ChartBuilder::on(area);
        let builder = builder.margin(MARGIN_PX).margin_right(RIGHT_PX);
        let labels = builder.x_label_area_size(LABELS_PX).y_label_area_size(LABELS_PX + MARGIN_PX);
        let mut chart = labels.build_cartesian_2d(x, y)?;
        let mut mesh = chart.configure_mesh();
        let number = |value: &f64| format!("{}", (value * 1e6).round() / 1e6);
        mesh.x_max_light_lines(FINE_LINES).y_max_light_lines(FINE_LINES);
        mesh.x_desc(self.x.label.as_str()).y_desc(self.y.label.as_str());
        mesh.x_label_formatter(&number).y_label_formatter(&number);
        mesh.label_style(("sans-serif", TEXT_PX)).axis_desc_style(("sans-serif", TEXT_PX)).draw()?;
        for (series, colour) in self.series.iter().zip(COLOURS) {
            let line = LineSeries::new(series.points.iter().copied(), colour.stroke_width(LINE_PX));
            chart.draw_series(line)?;
            chart.draw_series(series.points.iter().map(|at| Circle::new(*at, DOT_PX, colour.filled())))?;
        }
        area.present()?;
        Ok(())
    }

    fn draw_legend(&self, area: &Area<'_>) -> anyhow::Result<()> {
        let columns = area.split_evenly((1, LEGEND_COLUMNS));
        let left = (LABELS_PX + 2 * MARGIN_PX) as i32;
        for (number, (series, colour)) in self.series.iter().zip(COLOURS).enumerate() {
            let Some(column) = columns.get(number % LEGEND_COLUMNS) else { continue };
            let y = (number / LEGEND_COLUMNS) as i32 * LEGEND_ROW_PX + LEGEND_ROW_PX / 2;
            let line = [(left, y), (left + LEGEND_LINE_PX, y)];
            column.draw(&PathElement::new(line, colour.stroke_width(LINE_PX)))?;
            let at = (left + LEGEND_LINE_PX + 8, y - TEXT_PX as i32 / 2);
            column.draw(&Text::new(series.name.as_str(), at, ("sans-serif", TEXT_PX)))?;
        }
        Ok(())
    }
}
