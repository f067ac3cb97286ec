#!/usr/bin/env bash
# Start (or stop) a throwaway one-node Slurm as root, without systemd, munge or cgroups.
#   start_slurm.sh start|stop|status|env [DIR]
# Knobs (environment): TOY_CPUS TOY_MEM TOY_GPUS TOY_AUTH=none|munge
#   TOY_ACCT=none|filetxt|slurmdbd  TOY_MINJOBAGE  TOY_CTLD_PORT TOY_SLURMD_PORT TOY_DBD_PORT TOY_DB_PORT
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cmd=${1:-start}
dir=${2:-${TOY_DIR:-/tmp/toy-slurm}}
host=$(hostname -s)
cpus=${TOY_CPUS:-8} mem=${TOY_MEM:-16000} gpus=${TOY_GPUS:-4}
auth=${TOY_AUTH:-none} acct=${TOY_ACCT:-none} minjobage=${TOY_MINJOBAGE:-600}
ctld_port=${TOY_CTLD_PORT:-26817} slurmd_port=${TOY_SLURMD_PORT:-26818}
dbd_port=${TOY_DBD_PORT:-26819} db_port=${TOY_DB_PORT:-23306}
proctrack=${TOY_PROCTRACK:-proctrack/linuxproc}
gather=${TOY_GATHER:-jobacct_gather/linux}

wait_for() { # seconds, what, command...
  local end=$((SECONDS + $1)) what=$2; shift 2
  until "$@" >/dev/null 2>&1; do
    if (( SECONDS >= end )); then echo "timed out waiting for $what" >&2; return 1; fi
    sleep 0.1
  done
}
pid_of() { [[ -s $dir/$1.pid ]] && tr -d '[:space:]' < "$dir/$1.pid"; }
alive() { local p; p=$(pid_of "$1") && kill -0 "$p" 2>/dev/null; }
stop_one() {
  local p; p=$(pid_of "$1") || return 0
  kill -TERM "$p" 2>/dev/null || return 0
  for _ in $(seq 50); do kill -0 "$p" 2>/dev/null || return 0; sleep 0.1; done
  kill -KILL "$p" 2>/dev/null || true
}

start() {
  mkdir -p "$dir"/{state,spool,mysql}; chmod 755 "$dir"
  local cred accounting
  if [[ $auth == munge ]]; then
    cred=cred/munge
    [[ -s $dir/munge.key ]] || { dd if=/dev/urandom of="$dir/munge.key" bs=128 count=1 status=none; chmod 400 "$dir/munge.key"; }
    if ! alive munged; then
      rm -f "$dir/munge.sock"*
      munged --force --key-file="$dir/munge.key" --socket="$dir/munge.sock" \
        --pid-file="$dir/munged.pid" --log-file="$dir/munged.log" --seed-file="$dir/munge.seed"
    fi
    wait_for 10 munged test -S "$dir/munge.sock"
  else cred=cred/none; fi
  case $acct in
    none) accounting='AccountingStorageType=accounting_storage/none' ;;
    filetxt) accounting=$'AccountingStorageType=accounting_storage/none\nJobCompType=jobcomp/filetxt\nJobCompLoc='"$dir/jobcomp.log" ;;
    slurmdbd) accounting=$'AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\nAccountingStoragePort='"$dbd_port"$'\nAccountingStoreFlags=job_comment\nAccountingStorageTRES=gres/gpu' ;;
    *) echo "unknown TOY_ACCT=$acct" >&2; exit 2 ;;
  esac
  sed -e "s#@HOST@#$host#g" -e "s#@DIR@#$dir#g" -e "s#@AUTH@#auth/$auth#" -e "s#@CRED@#$cred#" \
      -e "s#@CPUS@#$cpus#g" -e "s#@MEM@#$mem#g" -e "s#@GPUS@#$gpus#g" \
      -e "s#@CTLD_PORT@#$ctld_port#" -e "s#@SLURMD_PORT@#$slurmd_port#" -e "s#@MINJOBAGE@#$minjobage#" \
      -e "s#@PROCTRACK@#$proctrack#" -e "s#@GATHER@#$gather#" "$here/slurm.conf.in" |
    awk -v a="$accounting" '$0=="@ACCOUNTING@"{print a; next} {print}' > "$dir/slurm.conf"
  if [[ $auth == munge ]]; then
    echo "AuthInfo=socket=$dir/munge.sock" >> "$dir/slurm.conf"
    # slurmdbd clients take the socket from AccountingStoragePass, not AuthInfo
    [[ $acct == slurmdbd ]] && echo "AccountingStoragePass=$dir/munge.sock" >> "$dir/slurm.conf"
  fi
  # Null devices stand in for the GPUs, so each job gets its own CUDA_VISIBLE_DEVICES. Where
  # mknod is refused (unprivileged container) a bare count still schedules, without the variable.
  local i nodes=yes
  for ((i = 0; i < gpus; i++)); do
    [[ -c $dir/fakegpu$i ]] || { rm -f "$dir/fakegpu$i"; mknod "$dir/fakegpu$i" c 1 3 2>/dev/null || nodes=no; }
  done
  { echo "AutoDetect=off"
    if (( gpus > 0 )); then
      if [[ $nodes == yes ]]; then echo "NodeName=$host Name=gpu File=$dir/fakegpu[0-$((gpus - 1))]"
      else echo "NodeName=$host Name=gpu Count=$gpus"; fi
    fi; } > "$dir/gres.conf"
  echo "CgroupAutomount=no" > "$dir/cgroup.conf"
  export SLURM_CONF=$dir/slurm.conf
  if [[ $acct == slurmdbd ]]; then start_dbd "$cred"; fi
  alive slurmctld || slurmctld -f "$SLURM_CONF"
  wait_for 20 slurmctld scontrol ping
  alive slurmd || slurmd -f "$SLURM_CONF" -N "$host"
  wait_for 20 "node idle" sh -c 'sinfo -h -o %T | grep -qE "^(idle|mixed|allocated)$"'
  # snakemake's slurm-jobstep executor strips SLURM_CONF before it calls srun, so a cluster that is
  # not configured under /etc/slurm needs a srun on PATH that puts it back.
  mkdir -p "$dir/bin"
  printf '#!/bin/sh\nSLURM_CONF=%s exec %s "$@"\n' "$SLURM_CONF" "$(PATH=${PATH//$dir\/bin:/} command -v srun)" > "$dir/bin/srun"
  chmod +x "$dir/bin/srun"
  printf 'export SLURM_CONF=%s\nexport PATH=%s:$PATH\n' "$SLURM_CONF" "$dir/bin" > "$dir/env.sh"
  echo "up: SLURM_CONF=$SLURM_CONF"
}

start_dbd() {
  # Private mariadb on a unix socket, no network.
  if ! alive mariadbd; then
    if [[ ! -d $dir/mysql/mysql ]]; then
      mariadb-install-db --no-defaults --user=root --datadir="$dir/mysql" --auth-root-authentication-method=normal --skip-test-db > "$dir/mysql-install.log" 2>&1
    fi
    setsid mariadbd --no-defaults --user=root --datadir="$dir/mysql" --socket="$dir/mysql.sock" --port="$db_port" --bind-address=127.0.0.1 \
      --pid-file="$dir/mariadbd.pid" --innodb-buffer-pool-size=64M --innodb-flush-log-at-trx-commit=2 \
      > "$dir/mariadbd.log" 2>&1 < /dev/null &
    wait_for 30 mariadbd mariadb --no-defaults --socket="$dir/mysql.sock" -u root -e 'select 1'
  fi
  mariadb --no-defaults --socket="$dir/mysql.sock" -u root -e "create database if not exists toyacct; create user if not exists 'slurm'@'127.0.0.1' identified by 'toy'; create user if not exists 'slurm'@'localhost' identified by 'toy'; grant all on toyacct.* to 'slurm'@'127.0.0.1'; grant all on toyacct.* to 'slurm'@'localhost';"
  cat > "$dir/slurmdbd.conf" <<CONF
AuthType=auth/$auth
DbdHost=$host
DbdAddr=127.0.0.1
DbdPort=$dbd_port
SlurmUser=root
PidFile=$dir/slurmdbd.pid
LogFile=$dir/slurmdbd.log
DebugLevel=info
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$db_port
StorageUser=slurm
StoragePass=toy
StorageLoc=toyacct
CONF
  [[ $auth == munge ]] && echo "AuthInfo=socket=$dir/munge.sock" >> "$dir/slurmdbd.conf"
  chmod 600 "$dir/slurmdbd.conf"
  if ! alive slurmdbd; then
    # slurmdbd looks for slurmdbd.conf beside the file SLURM_CONF names
    slurmdbd
  fi
  wait_for 30 slurmdbd sacctmgr -n -i show cluster
  sacctmgr -n show cluster format=cluster | grep -qw toy || sacctmgr -i add cluster toy > /dev/null
  sacctmgr -n show account format=account | grep -qw toyacct || sacctmgr -i add account toyacct Cluster=toy > /dev/null
  sacctmgr -n show user format=user | grep -qw "$(id -un)" || sacctmgr -i add user "$(id -un)" Account=toyacct > /dev/null
  sacctmgr -n show assoc user="$(id -un)" format=account | grep -qw toyacct || sacctmgr -i add user "$(id -un)" Account=toyacct DefaultAccount=toyacct > /dev/null
}

case $cmd in
  start) start ;;
  stop)
    export SLURM_CONF=$dir/slurm.conf
    scancel -u "$(id -un)" 2>/dev/null || true
    for d in slurmd slurmctld slurmdbd mariadbd munged; do stop_one $d; done ;;
  status) export SLURM_CONF=$dir/slurm.conf; for d in munged mariadbd slurmdbd slurmctld slurmd; do alive $d && echo "$d up" || echo "$d down"; done; sinfo -N -o "%N %P %T %c %m %G" || true ;;
  env) cat "$dir/env.sh" ;;
  *) echo "usage: $0 start|stop|status|env [DIR]" >&2; exit 2 ;;
esac
