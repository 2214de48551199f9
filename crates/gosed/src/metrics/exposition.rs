//! Prometheus's text format, version 0.0.4.

use std::fmt::{Display, Write as _};

/// A text of samples; those of one name stand together.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// Begins the samples of a name.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A sample with these labels.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            self.0.push(if at == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"");
            for character in text.chars() {
                match character {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    other => self.0.push(other),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    /// A family of one sample without labels.
    pub fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// A family of counters by one label.
    pub fn by_label<'l>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        counts: impl IntoIterator<Item = (&'l str, u64)>,
    ) {
        self.family(name, "counter", help);
        for (value, count) in counts {
            self.sample(name, &[(label, value)], count);
        }
    }

    /// The text.
    #[must_use]
    pub fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut text = Exposition::default();
        text.single("a_total", "counter", "All.", 3);
        text.family("b", "gauge", "Each.");
        text.sample("b", &[("name", "x\\y\"z\n"), ("kind", "k")], 0.5);
        let expected = "# HELP a_total All.\n# TYPE a_total counter\na_total 3\n# HELP b Each.\n# TYPE b gauge\n\
                        b{name=\"x\\\\y\\\"z\\n\",kind=\"k\"} 0.5\n";
        assert_eq!(text.finish(), expected);
    }
}
