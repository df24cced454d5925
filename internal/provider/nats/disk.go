package nats

import "mooring/internal/base/errs"

// spare is how much of the disk the embedded server leaves free: room for what is on its way when it is noticed (look, maxPendingBytes), and for the rest of
// the machine. A NATS server whose disk is full switches JetStream off until it is started again, so it must not come to that.
const spare = 256 << 20

// look notes whether the disk of the embedded server is nearly full. While it is, nothing is appended: fronts hold back or refuse, and nothing is lost.
func (f *Fabric) look() {
	if f.server == nil {
		return
	}
	free, err := f.free(f.o.Dir)
	if err != nil {
		f.o.Log.Warn("how much of the disk is free cannot be seen", "dir", f.o.Dir, "err", err)
		return
	}
	full := free < spare
	if f.diskFull.Swap(full) != full {
		f.o.Log.Error("the disk under stored messages: whether it is nearly full has changed", "dir", f.o.Dir, "full", full, "free", free, "needed", int64(spare))
	}
}

func (f *Fabric) errDisk() error {
	return errs.New(errs.Limited, "the disk under the stored messages is nearly full: less than %d MiB are free", int64(spare>>20))
}
