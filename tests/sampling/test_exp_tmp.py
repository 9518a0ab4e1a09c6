import time, sys, pytest, os
from pathlib import Path
from tests.sampling import *
def test_x(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    M=("sample","--model",tiny_model,"--device","cpu")
    def go(*a):
        t=time.perf_counter()
        try: d=invoke(*M,*a)
        except BaseException as e:
            print("RAISED",a,repr(e)); return
        print("=====",a,round(time.perf_counter()-t,2),d.code); print(d.out[:3000]); print("--err"); print(d.err[:1500])
    go("--steps",3,"-n",4)
    go("--steps",3,"-n",4,"--json")
    go("--steps",3,"--explain")
    go("--steps",3,"--dry-run")
    go("--steps",3,"--explain","--solver","ddpm")
    go("--steps",3,"--clip","inf")
    go("--device","cpu:3")
    go("--steps","abc")
    (tmp_path/"bad.npy").write_bytes(b"PK\x03\x04garbage")
    go("--init-noise","bad.npy")
    d=invoke(); print(d)
    d=invoke("sampl"); print(d)
    d=invoke("info"); print(d.out,d.err)
    for x in sorted(tmp_path.rglob("*")): print(x)
