//! The operator's Pods, seen from the Node: which of them leads, its process, its memory.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::stage::{HOME, PATIENCE, RELEASE, Stage};
use crate::support::eventually;

/// One Pod of the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    uid: String,
}

impl Stage {
    /// The operator's Pods.
    pub async fn pods(&self) -> Vec<Pod> {
        let selector = format!("app.kubernetes.io/instance={RELEASE},app.kubernetes.io/name=nodepool-operator");
        let found = self.home().json(&["get", "pods", "--selector", &selector]).await.unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let of = |pod: &Value| Pod { name: text(&pod["metadata"]["name"]), uid: text(&pod["metadata"]["uid"]) };
        let all = found["items"].as_array().unwrap();
        all.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).map(of).collect()
    }

    /// The holder of the Lease.
    pub async fn holder(&self) -> String {
        let lease = self.home().json(&["get", "lease", RELEASE]).await.unwrap();
        lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until one of the Pods holds the Lease.
    pub async fn leader(&self) -> Pod {
        eventually(PATIENCE, || async {
            let holder = self.holder().await;
            let pods = self.pods().await;
            let leader = pods.into_iter().find(|pod| holder.starts_with(&format!("{}_", pod.name)));
            leader.ok_or_else(|| format!("{HOME}: {holder} holds the lease"))
        })
        .await
    }
}

impl Pod {
    /// The operator's process on this machine: the one of the Pod's control group that runs the program.
    pub fn process(&self) -> u32 {
        let program =
            |pid: u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("nodepool-"));
        let ours = |pid: u32| self.is_of(pid) && program(pid);
        let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        pids.into_iter().find(|pid| ours(*pid)).unwrap_or_else(|| panic!("no process of {self:?}"))
    }

    fn is_of(&self, pid: u32) -> bool {
        let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        group.contains(&self.uid) || group.contains(&self.uid.replace('-', "_"))
    }

    /// Its memory as the kubelet counts it (the working set) and as the process does (`VmRSS`), in bytes.
    pub fn memory(&self) -> (u64, u64) {
        let pid = self.process();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
        (working_set(pid), kib * 1024)
    }
}

/// What the control group uses, without file pages that nobody has used for long.
fn working_set(pid: u32) -> u64 {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let of = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        match controllers.as_str() {
            "" => Some((PathBuf::from(format!("/sys/fs/cgroup{path}")), "memory.current", "inactive_file ")),
            _ if controllers.split(',').any(|name| name == "memory") => Some((
                PathBuf::from(format!("/sys/fs/cgroup/memory{path}")),
                "memory.usage_in_bytes",
                "total_inactive_file ",
            )),
            _ => None,
        }
    };
    // Where both hierarchies are mounted, the one that has the memory controller counts.
    let (folder, usage, idle) =
        groups.lines().filter_map(of).find(|(folder, usage, _)| folder.join(usage).exists()).unwrap();
    let used: u64 = fs::read_to_string(folder.join(usage)).unwrap().trim().parse().unwrap();
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap();
    let idle: u64 = stat.lines().find_map(|line| line.strip_prefix(idle)).unwrap().parse().unwrap();
    used.saturating_sub(idle)
}
