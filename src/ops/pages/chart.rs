//! Charts as SVG. The picture is stretched to its place, so words stand beside it and not in it.

use std::fmt::Write;

use maud::{Markup, PreEscaped, html};

use super::words;
use crate::ops::samples::{Span, Stretch};

const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 72.0;

/// What came in and what was applied, and the lag below.
pub(super) fn chart(title: &str, span: Span, stretches: &[Stretch]) -> Markup {
    let rate = |count: i64| count as f64 / f64::from(span.stretch_seconds());
    let received: Vec<f64> = stretches.iter().map(|stretch| rate(stretch.received)).collect();
    let applied: Vec<f64> = stretches.iter().map(|stretch| rate(stretch.applied)).collect();
    let lag: Vec<f64> = stretches.iter().map(|stretch| stretch.lag_seconds).collect();
    let places: Vec<f64> = stretches.iter().map(|stretch| place(span, stretch.seconds_ago)).collect();
    let peak = greatest(&received).max(greatest(&applied));
    let peak_text = format!("{} / s", words::decimal(peak));
    let lag_text = words::span(greatest(&lag));
    html! {
        figure.chart {
            figcaption {
                strong { (title) }
                span.key.received { "received" }
                span.key.applied { "applied" }
                span.peak { "peak " b { (peak_text) } }
            }
            (svg(&format!("{title}: at most {peak_text}"), HEIGHT, &html! {
                path.bars.received d=(bars(&places, &received, peak, HEIGHT, span)) { }
                path.line.applied d=(line(&places, &applied, peak, HEIGHT, span)) { }
            }))
            figcaption.second {
                span.key.lag { "lag" }
                span.peak { "peak " b { (lag_text) } }
            }
            (svg(&format!("{title}: lag at most {lag_text}"), 28.0, &html! {
                path.bars.lag d=(bars(&places, &lag, greatest(&lag).max(1.0), 28.0, span)) { }
            }))
            div.axis aria-hidden="true" {
                @for label in axis(span) { span { (label) } }
            }
        }
    }
}

fn axis(span: Span) -> [&'static str; 3] {
    match span {
        Span::Hour => ["60 min ago", "30 min", "now"],
        Span::Day => ["24 h ago", "12 h", "now"],
    }
}

fn greatest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// Where a stretch begins, from the left.
fn place(span: Span, seconds_ago: f64) -> f64 {
    WIDTH * (1.0 - seconds_ago / f64::from(span.seconds()))
}

fn stretch_width(span: Span) -> f64 {
    WIDTH * f64::from(span.stretch_seconds()) / f64::from(span.seconds())
}

/// A bar for each value that is not nothing.
fn bars(places: &[f64], values: &[f64], peak: f64, height: f64, span: Span) -> String {
    let width = stretch_width(span) - 1.0;
    let mut path = String::new();
    for (place, value) in places.iter().zip(values).filter(|(_, value)| **value > 0.0) {
        let top = (height - value / peak * (height - 2.0)).min(height - 1.0);
        let left = place.max(0.0);
        let right = (place + width).min(WIDTH);
        if right > left {
            let _ = write!(path, "M{left:.1} {height}V{top:.1}H{right:.1}V{height}z");
        }
    }
    path
}

/// A line through the middles of the stretches, broken where something is missing.
fn line(places: &[f64], values: &[f64], peak: f64, height: f64, span: Span) -> String {
    let (mut path, mut last) = (String::new(), f64::NEG_INFINITY);
    if peak <= 0.0 {
        return path;
    }
    for (place, value) in places.iter().zip(values) {
        let y = height - value / peak * (height - 2.0);
        let x = place + stretch_width(span) / 2.0;
        if !(0.0..=WIDTH).contains(&x) {
            continue;
        }
        let command = if place - last > 1.5 * stretch_width(span) { 'M' } else { 'L' };
        let _ = write!(path, "{command}{x:.1} {y:.1}");
        last = *place;
    }
    path
}

fn svg(label: &str, height: f64, content: &Markup) -> Markup {
    html! {
        (PreEscaped(format!(
            r#"<svg viewBox="0 0 {WIDTH} {height}" width="100%" height="{height}" preserveAspectRatio="none" role="img" aria-label=""#
        )))
        (label)
        (PreEscaped(r#"">"#.to_owned()))
        (content)
        (PreEscaped("</svg>".to_owned()))
    }
}

/// Figures as parts of a whole, side by side.
pub(super) fn shares(parts: &[(&str, u32)], whole: u32) -> Markup {
    let ends = parts.iter().scan(0, |end, (_, part)| {
        *end += part;
        Some(*end)
    });
    html! {
        svg.shares viewBox=(format!("0 0 {whole} 4")) width="100%" height="4" preserveAspectRatio="none" aria-hidden="true" {
            rect.whole width=(whole) height="4" { }
            @for ((name, part), end) in parts.iter().zip(ends) {
                rect class=(name) x=(end - part) width=(part) height="4" { }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_reach_from_nothing_to_the_peak_and_stay_in_the_picture() {
        let path = bars(&[-3.0, 0.0, 595.0], &[1.0, 0.0, 2.0], 2.0, 72.0, Span::Hour);
        assert_eq!(path, "M0.0 72V37.0H1.0V72zM595.0 72V2.0H599.0V72z");
    }

    #[test]
    fn a_line_is_broken_where_nothing_is_known() {
        let path = line(&[0.0, 5.0, 50.0], &[0.0, 1.0, 1.0], 1.0, 72.0, Span::Hour);
        assert_eq!(path, "M2.5 72.0L7.5 2.0M52.5 2.0");
        assert_eq!(line(&[0.0], &[0.0], 0.0, 72.0, Span::Hour), "");
    }
}
