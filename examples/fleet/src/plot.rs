//! SVG plot of the simulated days.

use std::{error::Error, ops::Range, path::Path};

use plotters::{coord::Shift, prelude::*};

use crate::day::{DAY, Day, OUTAGE};

const COLOURS: [RGBColor; 3] = [
    RGBColor(0x1f, 0x77, 0xb4),
    RGBColor(0xd6, 0x27, 0x28),
    RGBColor(0x2c, 0xa0, 0x2c),
];

pub(crate) fn draw(path: &Path, days: &[(&str, &Day)]) -> Result<(), Box<dyn Error>> {
    let area = SVGBackend::new(path, (860, 780)).into_drawing_area();
    area.fill(&WHITE)?;
    let panels = area.split_evenly((3, 1));
    let lines = |seconds: fn(&Day) -> &[u32]| days.iter().map(|(name, day)| (*name, seconds(day))).collect::<Vec<_>>();
    panel(
        &panels[0],
        "POSTs a second, in the first ten minutes (by the second)",
        &lines(|day| &day.posts),
        0..600,
        1,
        ("minutes", 60.0),
    )?;
    panel(
        &panels[1],
        "POSTs a second, in the rest of the day (by the minute)",
        &lines(|day| &day.posts),
        600..DAY,
        60,
        ("hours", 3_600.0),
    )?;
    panel(
        &panels[2],
        "replicas without a usable token, around the outage of two minutes at noon",
        &lines(|day| &day.without_token),
        OUTAGE.start - 120..OUTAGE.end + 480,
        1,
        ("minutes", 60.0),
    )?;
    area.present()?;
    Ok(())
}

/// Draws one panel: each line over a stretch of the day, with one point per bin.
///
/// A bin is `seconds` long, and its point is the mean.
fn panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    caption: &str,
    lines: &[(&str, &[u32])],
    stretch: Range<usize>,
    seconds: u16,
    (unit, unit_seconds): (&str, f64),
) -> Result<(), Box<dyn Error>> {
    let at = |second: usize| f64::from(u32::try_from(second).unwrap_or(u32::MAX)) / unit_seconds;
    let points = |line: &[u32]| -> Vec<(f64, f64)> {
        let bins = line[stretch.clone()]
            .chunks(seconds.into())
            .zip(stretch.clone().step_by(seconds.into()));
        bins.map(|(bin, second)| (at(second), f64::from(bin.iter().sum::<u32>()) / f64::from(seconds)))
            .collect()
    };
    let max = lines
        .iter()
        .flat_map(|(_, line)| points(line))
        .map(|(_, y)| y)
        .fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 16))
        .margin(10)
        .x_label_area_size(34)
        .y_label_area_size(44)
        .build_cartesian_2d(at(stretch.start)..at(stretch.end), 0.0..max * 1.05)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .max_light_lines(1)
        .x_desc(unit)
        .draw()?;
    // Draw the default last, so that it is on top.
    for ((name, line), colour) in lines.iter().zip(COLOURS).rev() {
        chart
            .draw_series(LineSeries::new(points(line), colour.stroke_width(1)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .border_style(BLACK)
        .background_style(WHITE)
        .draw()?;
    Ok(())
}
