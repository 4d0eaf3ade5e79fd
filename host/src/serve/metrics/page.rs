//! The page that a scraper reads: the Prometheus text format, version 0.0.4.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::table::{Kind, Metric};
use crate::telemetry::counters::Histogram;

/// The content type of the page.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// A page in the making. Each value is read once, when it is added; nothing is kept between pages.
#[derive(Debug, Default)]
pub struct Page(Vec<Family>);

#[derive(Debug)]
struct Family {
    metric: &'static Metric,
    series: Vec<(Vec<(&'static str, String)>, Value)>,
}

#[derive(Debug)]
enum Value {
    Number(f64),
    Histogram { sum: f64, buckets: Vec<(f64, u64)> },
}

impl Page {
    /// Adds a number. `labels` are the values of the metric's labels, in the metric's order.
    pub fn number(&mut self, metric: &'static Metric, labels: &[&str], number: f64) {
        self.push(metric, labels, Value::Number(number));
    }

    /// Adds a count.
    pub fn count(&mut self, metric: &'static Metric, labels: &[&str], count: u64) {
        // A count is exact up to 2^53, and scrapers know no other numbers than f64.
        self.number(metric, labels, count as f64);
    }

    /// Adds a histogram of durations.
    pub fn histogram(&mut self, metric: &'static Metric, labels: &[&str], durations: &Histogram) {
        self.push(
            metric,
            labels,
            Value::Histogram { sum: durations.seconds(), buckets: durations.buckets() },
        );
    }

    fn push(&mut self, metric: &'static Metric, labels: &[&str], value: Value) {
        let named = metric.labels.iter().copied().zip(labels.iter().map(|value| (*value).to_owned()));
        let series = (named.collect(), value);
        match self.0.iter_mut().find(|family| family.metric.name == metric.name) {
            Some(family) => family.series.push(series),
            None => self.0.push(Family { metric, series: vec![series] }),
        }
    }

    /// Returns the page as text.
    pub fn text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_text::encode(&mut text, &registry);
        text
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for Family { metric, series } in &self.0 {
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
            for (labels, value) in series {
                if labels.is_empty() {
                    write(&mut family, kind, value)?;
                } else {
                    write(&mut family.encode_family(labels)?, kind, value)?;
                }
            }
        }
        Ok(())
    }
}

fn write(encoder: &mut MetricEncoder<'_>, kind: MetricType, value: &Value) -> Result<(), fmt::Error> {
    match value {
        Value::Number(number) if matches!(kind, MetricType::Counter) => {
            encoder.encode_counter::<NoLabelSet, _, f64>(number, None)
        }
        Value::Number(number) => encoder.encode_gauge(number),
        Value::Histogram { sum, buckets } => {
            let count = buckets.iter().map(|(_, count)| count).sum();
            encoder.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
        }
    }
}
