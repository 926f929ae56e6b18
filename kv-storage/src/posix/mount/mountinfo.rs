//! The lines of `/proc/self/mountinfo` (proc(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::Mount;

/// The mount with this id. Lines that are not understood are passed over.
pub(super) fn find(table: &[u8], id: &str) -> Option<Mount> {
    table
        .split(|&byte| byte == b'\n')
        .find(|line| line.split(|&byte| byte == b' ').next() == Some(id.as_bytes()))
        .and_then(parse)
}

/// `36 35 98:0 /root /mount/point rw,noatime master:1 - ext4 /dev/root rw,errors=continue`: the fields before the dash vary in number.
fn parse(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let dash = fields.iter().skip(6).position(|field| *field == b"-")? + 6;
    let text = |index: usize| Some(String::from_utf8_lossy(&unescape(fields.get(index)?)).into_owned());
    let mut options: Vec<String> = Vec::new();
    // The mount's own options, then those of the file system; what a read-only mount says of itself comes first.
    for list in [text(5)?, text(dash + 3).unwrap_or_default()] {
        options.extend(list.split(',').filter(|option| !option.is_empty()).map(str::to_owned));
    }
    Some(Mount {
        mount_point: OsString::from_vec(unescape(fields.get(4)?)).into(),
        file_system: text(dash + 1)?,
        source: text(dash + 2)?,
        options,
    })
}

/// Blanks, tabs, newlines and backslashes stand there as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| first == b'\\').and_then(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 8).ok()
        });
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() { tail.get(3..).unwrap_or_default() } else { tail };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Lines as kernels 6.1 and 6.18 print them, and one with the options of VAST's client.
    const TABLE: &str = r"21 20 0:19 / /mnt/kv rw,relatime - nfs 10.99.0.1:/dev/shm/kvlab7894 rw,vers=3,rsize=1048576,wsize=1048576,namlen=255,hard,nolock,proto=tcp,port=2049,timeo=600,retrans=2,sec=sys,mountaddr=10.99.0.1,mountvers=3,mountport=20048,mountproto=tcp,lookupcache=pos,local_lock=all,addr=10.99.0.1
22 20 0:20 /v1 /mnt/v4 rw,relatime shared:7 master:2 - nfs4 10.99.0.1:/kv rw,vers=4.2,rsize=262144,wsize=262144,namlen=255,soft,proto=tcp,nconnect=4,timeo=600,retrans=2,sec=sys,clientaddr=10.99.0.11,local_lock=none,addr=10.99.0.1
23 20 0:21 / /mnt/vast rw,noatime - nfs vast:/kv rw,vers=3,rsize=1048576,wsize=1048576,namlen=255,acregmin=5,acdirmin=10,acdirmax=10,hard,forcerdirplus,proto=rdma,nconnect=34,localports=172.25.1.1-172.25.1.8,remoteports=dns,spread_reads,spread_writes,timeo=600,retrans=2,sec=sys,local_lock=none,addr=172.25.1.1
24 1 0:25 / / rw,relatime - overlay overlay rw,lowerdir=/a:/b,upperdir=/c,workdir=/d
25 24 8:1 /sub /mnt/with\040blank\134and\011tab ro,relatime - ext4 /dev/disk\0401 rw,errors=continue
26 24 0:30 / /mnt/empty rw - tmpfs  rw
27 24 broken
";

    fn mount(id: &str) -> Mount {
        find(TABLE.as_bytes(), id).expect(id)
    }

    #[test]
    fn mounts_are_found_by_their_id_with_both_lists_of_options() {
        let v3 = mount("21");
        assert_eq!((v3.file_system(), v3.source()), ("nfs", "10.99.0.1:/dev/shm/kvlab7894"));
        assert_eq!(v3.mount_point(), Path::new("/mnt/kv"));
        assert_eq!([v3.option("vers"), v3.option("hard"), v3.option("soft")], [Some("3"), Some(""), None]);
        assert_eq!(v3.option("relatime"), Some(""));
        let v4 = mount("22");
        assert_eq!((v4.file_system(), v4.option("nconnect")), ("nfs4", Some("4")));
        assert_eq!(mount("24").option("lowerdir"), Some("/a:/b"));
        assert!(!mount("24").is_nfs());
        assert_eq!(find(TABLE.as_bytes(), "2"), None);
        assert_eq!(find(TABLE.as_bytes(), "27"), None);
    }

    #[test]
    fn escaped_blanks_are_blanks() {
        let mount = mount("25");
        assert_eq!(mount.mount_point(), Path::new("/mnt/with blank\\and\ttab"));
        assert_eq!((mount.source(), mount.option("ro")), ("/dev/disk 1", Some("")));
        assert_eq!(unescape(br"\04\999\"), br"\04\999\");
    }

    //= SEMANTICS.md#nfs-miss-lifetime
    #[test]
    fn how_long_a_miss_may_be_believed_follows_from_the_options() {
        for (id, seconds) in [("21", 0), ("22", 60), ("23", 10), ("24", 0), ("25", 0), ("26", 0)] {
            assert_eq!(mount(id).misses_cached_seconds(), seconds, "{id}");
        }
    }

    //= SEMANTICS.md#nfs-warnings
    #[test]
    fn each_warning_names_its_option_and_a_good_mount_has_none() {
        let words = |id| mount(id).warnings().iter().map(ToString::to_string).collect::<Vec<_>>();
        for id in ["24", "25", "26"] {
            assert_eq!(words(id), Vec::<String>::new(), "{id} is local");
        }
        let v3 = words("21");
        assert_eq!(v3.len(), 1, "{v3:?}");
        assert!(v3[0].contains("nconnect=16"), "{v3:?}");
        let v4 = words("22").join("\n");
        for part in
            ["lookupcache=positive", "60 s", "`soft`", "hard", "rsize=1048576", "wsize=1048576", "262144"]
        {
            assert!(v4.contains(part), "{part} is missing in:\n{v4}");
        }
        assert!(!v4.contains("nconnect"), "{v4}");
        let vast = words("23");
        assert!(vast.len() == 1 && vast[0].contains("10 s"), "{vast:?}");
        assert!(mount("23").model_options().contains("spread_reads"));
        let model = mount("22").model_options();
        let line = format!("9 1 0:1 / /m rw - nfs s:/x rw,{model}");
        assert_eq!(find(line.as_bytes(), "9").expect("parsed").warnings(), []);
        let line =
            "9 1 0:1 / /m rw - nfs s:/x rw,vers=3,rsize=1048576,wsize=1048576,softerr,nocto,noac,nconnect=2";
        let odd = find(line.as_bytes(), "9").expect("parsed").warnings();
        let odd: Vec<_> = odd.iter().map(ToString::to_string).collect();
        assert_eq!(odd.len(), 3, "{odd:?}");
        for (warning, part) in odd.iter().zip(["remove `nocto`", "remove `noac`", "`softerr`"]) {
            assert!(warning.contains(part), "{part}: {warning}");
        }
    }
}
