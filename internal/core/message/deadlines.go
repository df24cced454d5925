package message

import (
	"container/heap"
	"sync"
)

// deadlines are what is due at certain seconds: the end of a connection's certificate, or a will. One of them serves all connections.
type deadlines struct {
	mu   sync.Mutex
	list deadlineHeap // guarded by mu
}

type deadline struct {
	at   int64 // Unix seconds
	conn *Conn
	key  string // of the session whose will it is
}

// add has the connection's end be due at a second. 0 is never.
func (d *deadlines) add(at int64, c *Conn) {
	if at == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !c.gone.Load() {
		heap.Push(&d.list, deadline{at: at, conn: c})
	}
}

func (d *deadlines) addWill(at int64, key string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	heap.Push(&d.list, deadline{at: at, key: key})
}

func (d *deadlines) remove(c *Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c.ending >= 0 {
		heap.Remove(&d.list, c.ending)
	}
}

// due takes out what is due by now.
func (d *deadlines) due(now int64) (list []deadline) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.list) > 0 && d.list[0].at <= now {
		list = append(list, heap.Pop(&d.list).(deadline))
	}
	return list
}

type deadlineHeap []deadline

func (h deadlineHeap) Len() int           { return len(h) }
func (h deadlineHeap) Less(i, j int) bool { return h[i].at < h[j].at }

func (h deadlineHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h.place(i)
	h.place(j)
}

func (h deadlineHeap) place(i int) {
	if h[i].conn != nil {
		h[i].conn.ending = i
	}
}

// Push is for container/heap.
func (h *deadlineHeap) Push(x any) {
	*h = append(*h, x.(deadline))
	h.place(len(*h) - 1)
}

// Pop is for container/heap.
func (h *deadlineHeap) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	(*h)[last] = deadline{}
	*h = (*h)[:last]
	if x.conn != nil {
		x.conn.ending = -1
	}
	return x
}
