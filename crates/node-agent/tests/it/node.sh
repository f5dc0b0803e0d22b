#!/bin/sh
# A node for the tests: network and mount namespaces of its own, a containerd, two images. node.sh up|down DIR NAME
set -eu
action=$1 D=$2 N=$3

down() {
  [ -e "$D/pid" ] && kill "$(cat "$D/pid")" 2>/dev/null || true
  for pass in 1 2 3; do
    for p in $(find /sys/fs/cgroup -path "*/$N/*" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u); do kill -9 "$p" 2>/dev/null || true; done
    sleep 0.1
  done
  for p in /proc/[0-9]*; do
    if tr '\0' ' ' <"$p/cmdline" 2>/dev/null | grep -q -- "-address $D/containerd.sock"; then kill -9 "${p#/proc/}" 2>/dev/null || true; fi
  done
  umount -l "$D/mnt/ns" "$D/mnt" 2>/dev/null || true
  ip netns del "$N" 2>/dev/null || true
  find /sys/fs/cgroup -depth -type d -path "*/$N*" -exec rmdir {} + 2>/dev/null || true
  rm -rf "$D/root" "$D/state" "$D/run"
}

image() { # NAME COMMAND-JSON: one layer with busybox
  rm -rf "$D/image"; mkdir -p "$D/image/fs/bin" "$D/image/fs/etc" "$D/image/fs/tmp"
  cp /bin/busybox "$D/image/fs/bin/busybox"
  for a in sh sleep cat echo httpd wget hostname mkdir ls touch kill true; do ln -s busybox "$D/image/fs/bin/$a"; done
  echo 'root:x:0:0:root:/:/bin/sh' >"$D/image/fs/etc/passwd"; echo 'root:x:0:' >"$D/image/fs/etc/group"
  tar -C "$D/image/fs" -cf "$D/image/layer.tar" .
  sum=$(sha256sum "$D/image/layer.tar" | cut -d' ' -f1)
  printf '{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":%s},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$2" "$sum" >"$D/image/config.json"
  printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$1" >"$D/image/manifest.json"
  tar -C "$D/image" -cf "$D/image.tar" manifest.json config.json layer.tar
  ctr -a "$D/containerd.sock" -n k8s.io images import --snapshotter overlayfs "$D/image.tar" >/dev/null
}

network() {
  ip netns add "$N"
  ip -n "$N" link set lo up
  ip -n "$N" link add out0 type veth peer name out1
  ip -n "$N" addr add 10.99.0.2/24 dev out0
  ip -n "$N" link set out0 up; ip -n "$N" link set out1 up
  ip -n "$N" route add default via 10.99.0.1
  nsenter --net="/run/netns/$N" sysctl -qw net.ipv4.ip_forward=1
}

start() {
  nsenter --mount="$D/mnt/ns" --net="/run/netns/$N" -- unshare --uts env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    sh -c "hostname $N; echo \$\$ >$D/pid; exec containerd -c $D/config.toml" >>"$D/containerd.log" 2>&1 </dev/null &
  for i in $(seq 100); do ctr -a "$D/containerd.sock" version >/dev/null 2>&1 && return; sleep 0.1; done
  tail -5 "$D/containerd.log" >&2; exit 1
}

up() {
  mkdir -p "$D/root" "$D/state" "$D/cni" "$D/certs.d" "$D/mnt" "$D/cnicache" "$D/run" /run/containerd /var/lib/cni
  network
  mount --bind "$D/mnt" "$D/mnt"; mount --make-private "$D/mnt"; touch "$D/mnt/ns"
  unshare --mount="$D/mnt/ns" --propagation private -- sh -c "mount --make-rshared / &&
    mount --bind $D/cnicache /var/lib/cni && mount --bind $D/run /run/containerd"
  cat >"$D/config.toml" <<T
version = 2
root = "$D/root"
state = "$D/state"
oom_score = 0
[grpc]
  address = "$D/containerd.sock"
[ttrpc]
  address = "$D/containerd.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "$D/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "test.local/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  disable_hugetlb_controller = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$D/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = "$D/runc"
T
  start
  image test.local/pause:1 '["/bin/busybox","sleep","1000000"]'
  image test.local/app:1 '["/bin/busybox","sleep","1000000"]'
}

case $action in
  up) up ;;
  down) down ;;
  crash) kill -9 "$(cat "$D/pid")"; sleep 0.3 ;;
  start) start ;;
esac
