//! Which machine a run was measured on: times from different machines must not be compared without saying so.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The machine a run was measured on. What the system does not tell is `unknown` or 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Processor model, as the system names it.
    pub cpu: String,
    /// Processor architecture, such as `x86_64`.
    pub architecture: String,
    /// Hardware threads this process may use (affinity and control groups are respected).
    pub cores: usize,
    /// Memory this process may use, in bytes: the machine's, or its control group's limit where that is smaller.
    pub memory_bytes: u64,
    /// Operating system and its version.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
}

impl Machine {
    /// Describes this machine.
    pub fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let unknown = || "unknown".to_owned();
        let limit = read("/sys/fs/cgroup/memory.max").trim().parse().unwrap_or(u64::MAX);
        let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
        Self {
            cpu: value(&read("/proc/cpuinfo"), "model name", ':').unwrap_or_else(unknown),
            architecture: std::env::consts::ARCH.to_owned(),
            cores: std::thread::available_parallelism().map_or(0, |cores| cores.get()),
            memory_bytes: memory(&read("/proc/meminfo")).unwrap_or(0).min(limit),
            os: value(&read("/etc/os-release"), "PRETTY_NAME", '=').unwrap_or_else(|| std::env::consts::OS.to_owned()),
            kernel: if kernel.is_empty() { unknown() } else { kernel },
        }
    }

    /// The fields in which two machines differ in a way that can change a measurement, with both values.
    pub fn differences(&self, other: &Machine) -> Vec<String> {
        let pairs = [
            ("cpu", self.cpu.clone(), other.cpu.clone()),
            ("architecture", self.architecture.clone(), other.architecture.clone()),
            ("cores", self.cores.to_string(), other.cores.to_string()),
            ("memory", super::units::bytes(self.memory_bytes), super::units::bytes(other.memory_bytes)),
            ("os", self.os.clone(), other.os.clone()),
            ("kernel", self.kernel.clone(), other.kernel.clone()),
        ];
        let differ = pairs.into_iter().filter(|(_, ours, theirs)| ours != theirs);
        differ.map(|(name, ours, theirs)| format!("{name} `{ours}` and `{theirs}`")).collect()
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = super::units::bytes(self.memory_bytes);
        write!(f, "{}, {} cores, {memory}, {}", self.cpu, self.cores, self.os)
    }
}

/// The value of the first line `name <separator> value`, without surrounding quotes and spaces.
fn value(text: &str, name: &str, separator: char) -> Option<String> {
    let (_, value) = text.lines().filter_map(|line| line.split_once(separator)).find(|(key, _)| key.trim() == name)?;
    let value = value.trim().trim_matches('"').to_owned();
    (!value.is_empty()).then_some(value)
}

fn memory(meminfo: &str) -> Option<u64> {
    kibibytes(meminfo, "MemTotal")
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let kib: u64 = value(text, name, ':')?.strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Memory of this process now, in bytes, where the system tells. What was freed since it was loaded is in it: little of that
/// serves for other sizes again.
pub fn resident_bytes() -> Option<u64> {
    kibibytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS")
}

/// Memory that can still be had, in bytes, where the system tells: the machine's, or what its control group leaves.
pub fn available_bytes() -> Option<u64> {
    let machine = kibibytes(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable")?;
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let group = match (number("/sys/fs/cgroup/memory.max"), number("/sys/fs/cgroup/memory.current")) {
        (Some(limit), Some(used)) => limit.saturating_sub(used),
        _ => u64::MAX,
    };
    Some(machine.min(group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_files_are_read_by_key() {
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD EPYC 7B13\nmodel name\t: other\n";
        assert_eq!(value(cpuinfo, "model name", ':').as_deref(), Some("AMD EPYC 7B13"));
        assert_eq!(value("NAME=x\nPRETTY_NAME=\"Debian 12\"\n", "PRETTY_NAME", '=').as_deref(), Some("Debian 12"));
        assert_eq!(value("model name:\n", "model name", ':'), None);
        assert_eq!(memory("MemTotal:       16 kB\n"), Some(16_384));
        assert_eq!(memory("MemFree: 16 kB\n"), None);
    }

    #[test]
    fn this_machine_is_described_and_differs_from_another_by_name() {
        let here = Machine::here();
        assert!(here.cores >= 1);
        assert!(here.differences(&here).is_empty());
        let other = Machine { cores: here.cores + 1, ..here.clone() };
        assert_eq!(here.differences(&other), [format!("cores `{}` and `{}`", here.cores, here.cores + 1)]);
    }
}
