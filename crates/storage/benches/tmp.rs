#![allow(missing_docs)]
use std::time::Instant;
use bytes::Bytes;
use synod_kv::*;
use synod_storage::{Store, StoreOptions};
fn cpu() -> f64 { let s=std::fs::read_to_string("/proc/thread-self/schedstat").unwrap(); s.split_whitespace().next().unwrap().parse::<f64>().unwrap()/1e3 }
fn main() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), &StoreOptions::default()).unwrap();
    let key = |n: u64| format!("{:032}", n.wrapping_mul(0x9e3779b97f4a7c15));
    let n = 600_000u64;
    let mut c_first=0.0; let mut c_batch=0.0; let mut c_write=0.0; let mut c_get=0.0; let mut c_create=0.0;
    let t=Instant::now();
    for b in 0..n/32 {
        let mut set = WriteSet::new();
        let a=cpu();
        for i in b*32..b*32+32 { let (f,t)=layout::key_range(key(i).as_bytes()); assert!(store.first(&f,&t,|_,_|()).unwrap().is_none()); }
        c_first+=cpu()-a; let a=cpu();
        { let mut c=store.prefix_cursor();
        for i in b*32..b*32+32 { let (f,t)=layout::key_range(key(i).as_bytes()); c.seek(&f).unwrap(); assert!(c.entry().is_none_or(|(k,_)| k>=t.as_slice())); } }
        c_batch+=cpu()-a; let a=cpu();
        for _ in 0..32 { store.prefix_cursor(); }
        c_create+=cpu()-a; let a=cpu();
        for i in b*32..b*32+32 { let (_,t)=layout::key_range(key(i).as_bytes()); assert!(store.get(&t).unwrap().is_none()); }
        c_get+=cpu()-a;
        for i in b*32..b*32+32 { let mut k=vec![]; layout::write_data_key(&mut k,key(i).as_bytes(),Revision(i+1)); let mut v=[0;256]; fastrand::Rng::with_seed(i).fill(&mut v[..128]); set.put(&k,&v); }
        let a=cpu();
        store.write(&set).unwrap();
        c_write+=cpu()-a;
    }
    let n=n as f64;
    println!("first {:.2} batch {:.2} create {:.2} get {:.2} write {:.2} wall {:.2}", c_first/n, c_batch/n, c_create/n, c_get/n, c_write/n, t.elapsed().as_secs_f64()*1e6/n);
    let _=Bytes::new();
    println!("{:?}", store.metrics());
}
