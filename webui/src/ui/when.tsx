// A time as the reader's browser writes it; the exact one when pointed at.
export function When({ time }: { time: string }) {
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) return <span>–</span>;
  return (
    <time dateTime={time} title={time}>
      {date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" })}
    </time>
  );
}
