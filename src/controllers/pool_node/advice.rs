//! What to correct when a cloud refuses a boot request in its own words.
//!
//! Only adds to what the cloud said, never replaces it, and never changes what is done about it: clouds phrase these
//! sentences as they like.

/// A part of a cloud's sentence, in lower case, and what it means in the words of our resources.
const ADVICE: [(&str, &str); 8] = [
    ("key_name", "correct keyPair of the Provider, or create the key pair"),
    ("keypair", "correct keyPair of the Provider, or create the key pair"),
    ("security group", "correct securityGroups of the Provider"),
    ("security_group", "correct securityGroups of the Provider"),
    ("availability zone", "correct availabilityZones of the Provider"),
    ("network", "correct networks of the Provider"),
    ("flavor's", "choose a larger flavor in the Pool"),
    ("requested image", "the image is gone from the cloud: correct source of the DiskImage"),
];

/// The cloud's sentence with what to correct, if that is known.
#[must_use]
pub fn advised(told: String) -> String {
    let lower = told.to_lowercase();
    match ADVICE.iter().find(|(part, _)| lower.contains(part)) {
        Some((_, advice)) if !lower.contains("correct ") => format!("{told}; {advice}"),
        _ => told,
    }
}

#[cfg(test)]
mod tests {
    use super::advised;

    #[test]
    fn novas_own_words_are_kept_and_explained() {
        for (told, advice) in [
            ("Invalid key_name provided. (HTTP 400)", "keyPair"),
            ("Security group x not found for project 1. (HTTP 400)", "securityGroups"),
            ("The requested availability zone is not available (HTTP 400)", "availabilityZones"),
            ("Network 1 could not be found. (HTTP 400)", "networks"),
            ("the cloud has no network named x", "networks"),
            ("Flavor's disk is smaller than the minimum size specified in image metadata.", "larger flavor"),
            ("Can not find requested image (HTTP 400)", "DiskImage"),
        ] {
            let advised = advised(told.to_owned());
            assert!(advised.starts_with(told) && advised[told.len()..].contains(advice), "{advised}");
        }
    }

    #[test]
    fn nothing_is_invented() {
        for told in ["Policy does not allow it (HTTP 403)", "refused", "correct networks of the Provider"] {
            assert_eq!(advised(told.to_owned()), told);
        }
    }
}
