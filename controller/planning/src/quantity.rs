//! Kubernetes quantities (`500m`, `16Gi`, `1.5`, `2e3`), read and added exactly.

use std::fmt;
use std::str::FromStr;

/// 10⁻⁹ is the smallest part that Kubernetes keeps; what is finer is rounded away from zero.
const NANO: i128 = 1_000_000_000;

/// An amount of something. Written as Kubernetes writes it: without a fraction, with the largest suffix that loses
/// nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Amount {
    nanos: i128,
    /// Written with `Ki`, `Mi`, … where that is exact.
    binary: bool,
}

impl Amount {
    /// The sum; far beyond what Kubernetes can say, it stays at the limit.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { nanos: self.nanos.saturating_add(other.nanos), binary: self.binary || other.binary }
    }

    /// `count` times as much.
    pub(crate) fn times(self, count: u32) -> Self {
        Self { nanos: self.nanos.saturating_mul(i128::from(count)), ..self }
    }

    /// The greater one.
    pub(crate) fn max(self, other: Self) -> Self {
        if other.nanos > self.nanos { other } else { self }
    }

    /// Nothing.
    pub(crate) fn is_zero(self) -> bool {
        self.nanos == 0
    }
}

impl PartialEq for Amount {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

/// Not a quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAQuantity;

impl FromStr for Amount {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let end = text.find(|letter: char| !(letter.is_ascii_digit() || letter == '.')).unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(NotAQuantity);
        }
        // No quantity is above 2⁶³, so more digits than these are as good as the limit.
        let digits = [whole, fraction].concat();
        let mantissa: i128 = digits
            .trim_start_matches('0')
            .get(..28)
            .map_or_else(|| Ok(digits.trim_start_matches('0').parse().unwrap_or(0)), |_| Err(NotAQuantity))?;
        let decimals = i32::try_from(fraction.len()).map_err(|_| NotAQuantity)?;
        let (multiplier, exponent, binary) = scale(suffix).ok_or(NotAQuantity)?;
        let power = exponent.saturating_sub(decimals).saturating_add(9);
        let scaled = mantissa.saturating_mul(multiplier);
        let nanos = match u32::try_from(power) {
            Ok(up) => 10_i128.checked_pow(up.min(30)).map_or(i128::MAX, |factor| scaled.saturating_mul(factor)),
            Err(_) => {
                let down = 10_i128.checked_pow(power.unsigned_abs().min(38)).unwrap_or(i128::MAX);
                scaled.div_euclid(down).saturating_add(i128::from(scaled.rem_euclid(down) != 0))
            }
        };
        let nanos = nanos.min(i128::from(i64::MAX).saturating_mul(NANO));
        Ok(Self { nanos: if negative { -nanos } else { nanos }, binary })
    }
}

/// What a suffix stands for: a factor, a power of ten, and whether it is a binary one.
fn scale(suffix: &str) -> Option<(i128, i32, bool)> {
    let binary = |power: u32| Some((1_i128 << (10 * power), 0, true));
    let decimal = |exponent| Some((1, exponent, false));
    match suffix {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => decimal(suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DECIMAL: [(&str, u32); 10] =
            [("E", 27), ("P", 24), ("T", 21), ("G", 18), ("M", 15), ("k", 12), ("", 9), ("m", 6), ("u", 3), ("n", 0)];
        const BINARY: [(&str, u32); 6] = [("Ei", 60), ("Pi", 50), ("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos / NANO;
        if self.binary && self.nanos % NANO == 0 && whole.abs() >= 1024 {
            let fitting = BINARY.iter().find(|(_, bits)| whole % (1_i128 << bits) == 0);
            return match fitting {
                Some((suffix, bits)) => write!(f, "{}{suffix}", whole >> bits),
                None => write!(f, "{whole}"),
            };
        }
        for (suffix, exponent) in DECIMAL {
            let factor = 10_i128.pow(exponent);
            if self.nanos % factor == 0 {
                return write!(f, "{}{suffix}", self.nanos / factor);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        text.parse::<Amount>().map_or_else(|NotAQuantity| "?".to_owned(), |amount| amount.to_string())
    }

    #[test]
    fn a_quantity_is_written_as_kubernetes_writes_it() {
        for (given, canonical) in [
            ("1500m", "1500m"),
            ("1.5", "1500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1000m", "1"),
            ("0.1", "100m"),
            ("2e3", "2k"),
            ("1E3", "1k"),
            ("1E", "1E"),
            ("0", "0"),
            ("0Gi", "0"),
            ("512", "512"),
            ("100Ki", "100Ki"),
            ("-3", "-3"),
            ("+4", "4"),
            (".5", "500m"),
            ("5.", "5"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("8Ei", "9223372036854775807"),
        ] {
            assert_eq!(written(given), canonical, "{given}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for given in ["", "Gi", "1.2.3", "1 Gi", "1gi", "e3", "one", "1e", "--1"] {
            assert_eq!(written(given), "?", "{given}");
        }
    }

    #[test]
    fn equal_amounts_are_equal_however_they_are_written() {
        assert_eq!("1024Mi".parse::<Amount>(), "1Gi".parse::<Amount>());
        assert_eq!("1".parse::<Amount>(), "1000m".parse::<Amount>());
    }

    #[test]
    fn a_sum_is_exact() {
        let sum = ["100m", "0.2", "3"]
            .iter()
            .map(|text| text.parse::<Amount>().unwrap())
            .fold(Amount::default(), Amount::plus);
        assert_eq!(sum.to_string(), "3300m");
        let memory = "1Gi".parse::<Amount>().unwrap().plus("512Mi".parse().unwrap()).times(3);
        assert_eq!(memory.to_string(), "4608Mi");
    }
}
