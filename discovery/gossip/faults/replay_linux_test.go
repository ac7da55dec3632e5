package faults_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

// replay keeps the gossip's packets that pass the switch, at most 20,000, and sends them once more when it is told to.
func replay(context.Context, spec) error {
	const (
		all  = 0x0003 // ETH_P_ALL
		most = 20_000
	)
	fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW, int(htons(all)))
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Usec: 50_000}); err != nil {
		return err
	}
	told := make(chan struct{})
	go func() {
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		close(told)
	}()
	var kept [][]byte
	for buf := make([]byte, 32<<10); ; {
		n, from, err := syscall.Recvfrom(fd, buf, 0)
		select {
		case <-told:
			return resend(fd, kept)
		default:
		}
		if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		ll, ok := from.(*syscall.SockaddrLinklayer)
		if ok && ll.Pkttype != syscall.PACKET_OUTGOING && isGossip(buf[:n]) && len(kept) < most {
			kept = append(kept, append([]byte(nil), buf[:n]...))
		}
	}
}

// isGossip is for UDP over IPv4, see RFC 791 and RFC 768.
func isGossip(frame []byte) bool {
	const ethernet, ip, udp = 14, 20, 17
	return len(frame) > ethernet+ip+8 && frame[12] == 8 && frame[13] == 0 && frame[ethernet+9] == udp &&
		binary.BigEndian.Uint16(frame[ethernet+ip+2:]) == port
}

func resend(fd int, frames [][]byte) error {
	out, err := net.InterfaceByName("one")
	if err != nil {
		return err
	}
	if len(frames) == 0 {
		return errors.New("no packet was seen")
	}
	for i, f := range frames {
		if err := syscall.Sendto(fd, f, 0, &syscall.SockaddrLinklayer{Ifindex: out.Index}); err != nil {
			return err
		}
		if i%10 == 0 {
			wait(time.Millisecond)
		}
	}
	fmt.Fprintf(os.Stderr, "%d packets were sent again\n", len(frames))
	return nil
}

func htons(n uint16) uint16 { return n<<8 | n>>8 }
