# The first process of a guest. xtask writes HOST, ADDRESS, SERVER, VERSION, OPTIONS, EXPORT, MODULES, FOLDER and the function `job`
# above these lines. The guest's root is this machine's, read-only; /mnt is its own memory.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/mnt LANG=C TERM=dumb

off() {
    echo o >/proc/sysrq-trigger
    sleep 60
}
broken() {
    echo "KV-LAB broken $*"
    off
}

echo "KV-LAB boots"
mount -t proc proc /proc
mount -t sysfs sys /sys 2>/dev/null
mount -t tmpfs tmpfs /mnt || broken "a tmpfs could not be mounted on /mnt"
mkdir /mnt/kv /mnt/default /mnt/tmp
# NFS 4 tells clients apart by it: two hosts of one name would end each other's sessions.
echo "kv-$HOST" >/proc/sys/kernel/hostname
# Clocks differ. Host a's is ahead of the server's, so that what it has just written is old enough for a sweep of age zero.
[ "$HOST" = b ] || date -s "+3 seconds" >/dev/null || broken "the clock could not be set"

for module in fs/netfs/netfs fs/fscache/fscache net/sunrpc/sunrpc fs/nfs_common/grace fs/lockd/lockd \
    fs/nfs_common/nfs_acl fs/nfs/nfs fs/nfs/nfsv3 lib/oid_registry net/sunrpc/auth_gss/auth_rpcgss \
    net/dns_resolver/dns_resolver fs/nfs/nfsv4; do
    insmod "$MODULES/$module.ko" || broken "the kernel module $module could not be loaded"
done

ip link set lo up
ip link set vec0 mtu 65000
ip addr add "$ADDRESS/24" dev vec0 && ip link set vec0 up || broken "the network device vec0 could not be set up"

# Without nosharecache the second mount would share the first one's caches and their options.
if [ "$VERSION" = 3 ]; then
    source="$SERVER:$EXPORT"
    fixed="vers=3,nolock,proto=tcp,mountport=20048,mountproto=tcp,port=2049,nosharecache"
    program="mount.nfs"
else
    source="$SERVER:/kv"
    fixed="vers=$VERSION,addr=$SERVER,clientaddr=$ADDRESS,proto=tcp,sec=sys,nosharecache"
    program="mount -i -t nfs"
fi
$program "$source" /mnt/kv -o "$fixed${OPTIONS:+,$OPTIONS}" || broken "$source could not be mounted with $fixed,$OPTIONS"
$program "$source" /mnt/default -o "$fixed" || broken "$source could not be mounted with $fixed"

export KV_NFS_HOST=$HOST KV_NFS_MOUNT=/mnt/kv KV_NFS_DEFAULT_MOUNT=/mnt/default TMPDIR=/mnt/tmp
cd /mnt
job
echo "KV-LAB done $?"
# Whoever keeps the lab looks around; otherwise xtask ends this machine.
sleep infinity
