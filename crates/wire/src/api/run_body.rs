//! The body of `POST /v1/processes`.
//!
//! ```text
//! offset  size
//!      0     4  length of the specification, little-endian; at most 1 MiB
//!      4     …  the specification: `RunSpec` as JSON
//!      …     …  the contents of its `files`, in order, each as long as it says
//!      …     …  the rest: the module
//! ```

use super::RunSpec;

/// The longest specification, in bytes.
pub const MAX_SPEC: usize = 1 << 20;

/// A body that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunBodyError {
    /// It ends before what it announces.
    #[error("the request's body is cut off: {have} bytes where {need} are announced")]
    CutOff {
        /// Bytes there.
        have: u64,
        /// Bytes announced.
        need: u64,
    },
    /// The specification is longer than one may be.
    #[error("the specification has {0} bytes; at most {MAX_SPEC} are allowed")]
    SpecTooLong(usize),
    /// The specification is not one.
    #[error("the specification cannot be read: {0}")]
    Spec(String),
    /// The contents are not as many as the files, or of another length.
    #[error("the specification's files and their contents do not match")]
    Files,
}

/// A body, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunBody<'a> {
    /// The specification.
    pub spec: RunSpec,
    /// The contents of its files, in order; empty for what has no content.
    pub files: Vec<&'a [u8]>,
    /// The module.
    pub module: &'a [u8],
}

/// Writes a body. `files` are the contents of `spec.files`, in order.
pub fn encode(spec: &RunSpec, files: &[&[u8]], module: &[u8]) -> Result<Vec<u8>, RunBodyError> {
    let lengths = spec.files.iter().map(|file| file.length);
    if !lengths.eq(files.iter().map(|content| content.len() as u64)) {
        return Err(RunBodyError::Files);
    }
    let json = serde_json::to_vec(spec).map_err(|error| RunBodyError::Spec(error.to_string()))?;
    if json.len() > MAX_SPEC {
        return Err(RunBodyError::SpecTooLong(json.len()));
    }
    let mut body = (json.len() as u32).to_le_bytes().to_vec();
    body.extend(json);
    files
        .iter()
        .for_each(|content| body.extend_from_slice(content));
    body.extend_from_slice(module);
    Ok(body)
}

/// Takes a body apart.
pub fn decode(body: &[u8]) -> Result<RunBody<'_>, RunBodyError> {
    let cut_off = |need: u64| RunBodyError::CutOff {
        have: body.len() as u64,
        need,
    };
    let (length, rest) = body.split_first_chunk().ok_or_else(|| cut_off(4))?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_SPEC {
        return Err(RunBodyError::SpecTooLong(length));
    }
    let (json, mut rest) = rest
        .split_at_checked(length)
        .ok_or_else(|| cut_off(4 + length as u64))?;
    let spec: RunSpec =
        serde_json::from_slice(json).map_err(|error| RunBodyError::Spec(error.to_string()))?;
    let mut files = Vec::new();
    for file in &spec.files {
        let before = (body.len() - rest.len()) as u64;
        let need = || cut_off(before.saturating_add(file.length));
        let length = usize::try_from(file.length).map_err(|_| need())?;
        let (content, after) = rest.split_at_checked(length).ok_or_else(need)?;
        if length > 0 && (file.directory || file.link.is_some()) {
            return Err(RunBodyError::Files);
        }
        files.push(content);
        rest = after;
    }
    Ok(RunBody {
        spec,
        files,
        module: rest,
    })
}

#[cfg(test)]
mod tests {
    use super::super::FileSpec;
    use super::*;

    fn spec() -> RunSpec {
        let file = |path: &str, directory, length| FileSpec {
            path: path.to_owned(),
            directory,
            link: None,
            length,
        };
        RunSpec {
            name: Some("web".to_owned()),
            files: vec![file("/d", true, 0), file("/d/f", false, 3)],
            ..RunSpec::default()
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let body = encode(&spec(), &[b"", b"abc"], b"\0asm").unwrap();
        let read = decode(&body).unwrap();
        assert_eq!(read.spec, spec());
        assert_eq!(read.files, [&b""[..], b"abc"]);
        assert_eq!(read.module, b"\0asm");
    }

    #[test]
    fn a_body_that_is_cut_off_anywhere_before_the_module_is_refused() {
        let body = encode(&spec(), &[b"", b"abc"], b"").unwrap();
        for length in 0..body.len() {
            let error = decode(&body[..length]).unwrap_err();
            assert!(matches!(error, RunBodyError::CutOff { .. }), "{error}");
        }
    }

    #[test]
    fn announced_lengths_are_not_believed() {
        let huge = u32::MAX.to_le_bytes();
        assert!(matches!(decode(&huge), Err(RunBodyError::SpecTooLong(_))));
        let mut spec = spec();
        spec.files[1].length = u64::MAX;
        let json = serde_json::to_vec(&spec).unwrap();
        let body = [&(json.len() as u32).to_le_bytes()[..], &json, b"abc"].concat();
        assert!(matches!(decode(&body), Err(RunBodyError::CutOff { .. })));
    }

    #[test]
    fn a_directory_has_no_content() {
        let mut spec = spec();
        spec.files[0].length = 1;
        let body = encode(&spec, &[b"x", b"abc"], b"").unwrap();
        assert_eq!(decode(&body), Err(RunBodyError::Files));
        assert_eq!(encode(&spec, &[b"x"], b""), Err(RunBodyError::Files));
    }
}
